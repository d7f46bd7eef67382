"""What an engine computes with: the cache of the model, the scheduler of its pages, the runner, and drafts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import psutil
import torch

from longcat.model.step import Piece
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import ConfigError, MachineError
from longcat.stages.inference.deterministic import DeterministicRunner
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
# Cost of proposing and verifying besides the model, as a part of a plain step.
BOOKKEEPING = 0.03
# Steps that are timed for the price of a draft.
TIMED_CALLS = 5


class Core:
    """Runner, scheduler and counters of one engine."""

    def __init__(self, runner: StepRunner, scheduler: Scheduler, proposer: Proposer | None) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.proposer = proposer
        self.stats = EngineStats()

    @property
    def draft_worth(self) -> float | None:
        """See `Proposer`; None without drafts."""
        return None if self.proposer is None else self.proposer.worth

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
    page_size = options.page_size
    pages = -(-_cache_tokens(model, options) // page_size)
    try:
        cache = model.new_pages(pages, page_size, slots=options.max_sequences)
    except (MemoryError, torch.OutOfMemoryError) as error:
        what = f"not enough memory for a cache of {pages * page_size:,} tokens"
        raise MachineError(what, hint="lower cache_tokens") from error
    runner = (DeterministicRunner if options.deterministic else StepRunner)(model, cache, vocab_size)
    drafts = _drafts(model, options, recurrent=cache.recurrent)
    lookahead = 1 if drafts == "mtp" else 0
    pool = PagePool(pages, page_size, b"", lookahead)
    # A state per sequence is that after its last token, and no prefix of it.
    shares = options.prefix_cache and not cache.recurrent
    scheduler = Scheduler(pool, options.step_tokens, options.max_sequences, prefix_cache=shares)
    return Core(runner, scheduler, _proposer(runner, drafts, options.draft_tokens))


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


def _cache_tokens(model: LongcatFlash, options: EngineOptions) -> int:
    if options.cache_tokens is not None:
        return options.cache_tokens
    wanted = max(DEFAULT_CACHE_TOKENS, model.config.max_position_embeddings)
    device = next(model.parameters()).device
    free = psutil.virtual_memory().available if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    per_page = model.new_pages(1, options.page_size, slots=1).bytes_per_page
    affordable = int(MEMORY_SHARE * free) // per_page * options.page_size
    return max(options.page_size, min(wanted, affordable))


def _proposer(runner: StepRunner, drafts: str, count: int) -> Proposer | None:
    if drafts == "off":
        return None
    proposer = MTPProposer(runner, count) if drafts == "mtp" else NgramProposer(count)
    pages = list(range(-(-(1 + count) // runner.cache.page_size)))
    plain = _fastest(lambda: runner.forward([Piece([0], 0, pages, 1)]))
    # Different tokens, which select different experts.
    drafted = _fastest(lambda: runner.forward([Piece(range(1 + count), 0, pages, 1 + count)]))
    making = count * _fastest(proposer.predict_once) if isinstance(proposer, MTPProposer) else 0.0
    proposer.worth = max(0.0, (drafted + making) / plain - 1 + BOOKKEEPING)
    logger.debug(
        "drafts of %s: a step with %d costs %.2f times one without; they stop where fewer than %.2f are accepted",
        *(drafts, count, 1 + proposer.worth, proposer.worth),
    )
    return proposer


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls."""
    best = math.inf
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        with torch.inference_mode():
            run()
        best = min(best, time.perf_counter() - start)
    return best
