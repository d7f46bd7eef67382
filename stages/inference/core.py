"""What an engine computes with: the cache of the model, the scheduler of its pages, the runner, and drafts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import psutil
import torch

from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.errors import ModelError
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import ConfigError, MachineError
from longcat.stages.inference.deterministic import DeterministicRunner
from longcat.stages.inference.draft_price import measure_price
from longcat.stages.inference.drafts import NgramProposer, Proposer
from longcat.stages.inference.mtp_drafts import MTPProposer
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.pages import PagePool
from longcat.stages.inference.runner import Outcome, StepRunner
from longcat.stages.inference.scheduler import Scheduler
from longcat.stages.inference.stats import EngineStats
from longcat.stages.inference.step_item import StepItem

logger = logging.getLogger(__name__)
DEFAULT_CACHE_TOKENS = 1 << 16
# Part of the free memory that the cache takes at most by default.
MEMORY_SHARE = 0.25


class Core:
    """Runner, scheduler and counters of one engine."""

    def __init__(self, runner: StepRunner, scheduler: Scheduler, proposer: Proposer | None) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.proposer = proposer
        self.stats = EngineStats()

    def draft_worth(self, sequences: int) -> float:
        """See `DraftPrice`; 0 without drafts."""
        return 0.0 if self.proposer is None else self.proposer.price.of(sequences)

    def compute(self, items: Sequence[StepItem], copies: Sequence[tuple[int, int]]) -> list[Outcome]:
        """Copy pages, then compute the items of a step."""
        for source, target in copies:
            self.runner.cache.copy(source, target)
        outcomes, self._hidden_TD = self.runner.run(items)
        self.stats.steps += 1
        self.stats.step_tokens += sum(item.length for item in items)
        return outcomes

    def propose(self, items: Sequence[StepItem]) -> None:
        """Set the drafts of the sequences of the step that was computed last."""
        if self.proposer is not None:
            self.proposer.propose(items, self._hidden_TD)


def build_core(model: LongcatFlash, vocab_size: int, options: EngineOptions) -> Core:
    """Allocate a cache and prepare drafts.

    Raises:
        ConfigError: drafts that the model cannot make, or deterministic steps that it cannot take.
        MachineError: not enough memory for the cache.
    """
    offload = options.offload
    page_size = options.page_size if offload is None else _block(options, offload)
    pages = -(-_cache_tokens(model, options, page_size) // page_size)
    try:
        cache = model.new_pages(pages, page_size, slots=options.max_sequences, offload=offload)
    except (MemoryError, torch.OutOfMemoryError) as error:
        what = f"not enough memory for a cache of {pages * page_size:,} tokens"
        raise MachineError(what, hint="lower cache_tokens") from error
    except ModelError as error:
        if offload is None:
            raise
        raise ConfigError(str(error), where="engine.offload") from None
    runner = (DeterministicRunner if options.deterministic else StepRunner)(model, cache, vocab_size)
    drafts = _drafts(model, options, recurrent=cache.recurrent)
    lookahead = 1 if drafts == "mtp" else 0
    pool = PagePool(pages, page_size, b"", lookahead)
    # A state per sequence is that after its last token, and no prefix of it.
    shares = options.prefix_cache and not cache.recurrent
    dense = None if offload is None else offload.dense_positions
    scheduler = Scheduler(pool, options.step_tokens, options.max_sequences, prefix_cache=shares, dense=dense)
    return Core(runner, scheduler, _proposer(runner, drafts, options))


def _block(options: EngineOptions, offload: OffloadOptions) -> int:
    """Positions of a page, which is a block."""
    if options.deterministic:
        raise ConfigError("deterministic = true cannot be used with offload", hint="leave one of them out")
    if "page_size" in options.model_fields_set and options.page_size != offload.block:
        raise ConfigError(
            f"page_size = {options.page_size}, but a page of an offloaded cache is a block of {offload.block} tokens",
            hint="leave page_size out, or set offload.block to the same",
        )
    return offload.block


def _drafts(model: LongcatFlash, options: EngineOptions, *, recurrent: bool) -> str:
    if recurrent:
        if options.drafts in ("mtp", "ngram"):
            raise ConfigError(
                f"drafts = {options.drafts}, but the model's attention keeps a state that cannot drop wrong drafts",
                hint="use drafts = off",
            )
        return "off"
    has_mtp = model.config.num_nextn_predict_layers > 0
    if options.drafts == "mtp" and not has_mtp:
        raise ConfigError(
            "drafts = mtp, but the model has no multi-token prediction (num_nextn_predict_layers)",
            hint="use drafts = ngram or off",
        )
    if options.drafts == "auto":
        return "mtp" if has_mtp else "off"
    return options.drafts


def _cache_tokens(model: LongcatFlash, options: EngineOptions, page_size: int) -> int:
    if options.cache_tokens is not None:
        return options.cache_tokens
    wanted = max(DEFAULT_CACHE_TOKENS, model.config.max_position_embeddings)
    if options.offload is not None and options.offload.tier == "disk":
        return wanted
    device = next(model.parameters()).device
    on_host = device.type == "cpu" or options.offload is not None
    free = psutil.virtual_memory().available if on_host else torch.cuda.mem_get_info(device)[0]
    per_page = model.new_pages(1, page_size, slots=1).bytes_per_page
    affordable = int(MEMORY_SHARE * free) // max(per_page, 1) * page_size
    return max(page_size, min(wanted, affordable))


def _proposer(runner: StepRunner, drafts: str, options: EngineOptions) -> Proposer | None:
    count = options.draft_tokens
    if drafts == "off":
        return None
    proposer = MTPProposer(runner, count) if drafts == "mtp" else NgramProposer(count)
    predict = proposer.predict_for if isinstance(proposer, MTPProposer) else None
    proposer.price = measure_price(runner, count, predict, options.max_sequences)
    for sequences, worth in zip(*proposer.price, strict=True):
        logger.debug(
            "drafts of %s: a step of %d sequences with %d each costs %.2f times one without; a sequence stops "
            "drafting where fewer than %.2f are accepted",
            *(drafts, sequences, count, 1 + worth, worth),
        )
    return proposer
