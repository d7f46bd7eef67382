"""One step of the engine on the model: the planned tokens of all sequences, and the tokens chosen after them.

Names: T tokens of the step, R rows of logits, V vocabulary, D hidden, L layers, K selected experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from longcat.model.step import Piece, StepBatch, StepOutput
from longcat.pipeline.errors import LongcatError
from longcat.stages.inference.batch_sampler import BatchSampler, Sampled
from longcat.stages.inference.continuation import Chosen
from longcat.stages.inference.logit_terms import SampleRow
from longcat.stages.inference.sampling import token_logprobs
from longcat.stages.inference.step_item import StepItem
from longcat.stages.inference.work import Branch

if TYPE_CHECKING:
    from longcat.model.paged_cache import PagedCache
    from longcat.model.transformer import LongcatFlash


class Outcome(NamedTuple):
    """Tokens chosen for a branch: the accepted drafts, then one more; empty if its prompt is not complete."""

    chosen: list[Chosen]
    error: LongcatError | None = None


class StepRunner:
    """Runs steps of one model on one cache."""

    def __init__(self, model: LongcatFlash, cache: PagedCache, vocab_size: int) -> None:
        self.model = model
        self.cache = cache
        self.vocab_size = vocab_size
        self.device = next(model.parameters()).device
        self.look_back: int = model.model.embed_tokens.look_back
        self.experts = model.config.n_routed_experts
        self._sampler = BatchSampler(vocab_size, self.device)

    @torch.inference_mode()
    def run(self, items: Sequence[StepItem]) -> tuple[list[Outcome], Tensor]:
        """Compute a step: the outcome of every item, and the hidden states [T, D] of its tokens, in order.

        Log-probabilities of prompts are added to the branches.
        """
        output = self.forward([self._piece(item) for item in items])
        logits_RV = output.logits_RV
        counts_RL = self._expert_counts(output, items)
        rows: list[SampleRow] = []
        places: list[int] = []
        start = 0
        for item in items:
            self._score(item, logits_RV[start : start + item.wanted])
            start += item.wanted
            rows += self._rows(item)
            places += range(start - item.choosing, start)
        sampled = self._sampler.sample(_take(logits_RV, places), rows)
        found = iter(zip(sampled, places, strict=True))
        outcomes = [_verified(item, [next(found) for _ in range(item.choosing)], counts_RL) for item in items]
        return outcomes, output.hidden_TD

    def forward(self, pieces: Sequence[Piece]) -> StepOutput:
        """Run the model on the pieces of a step."""
        batch = StepBatch.of(pieces, self.cache.page_size, self.device, self.look_back)
        return self.model.step(batch, self.cache)

    def _piece(self, item: StepItem) -> Piece:
        sequence = item.branch.sequence
        previous = sequence.ids[max(0, item.first - self.look_back) : item.first] if self.look_back else ()
        ids = sequence.tokens(item.first, item.length)
        return Piece(ids, item.first, sequence.pages, item.wanted, previous, sequence.slot, sequence.prompt_length)

    def _score(self, item: StepItem, logits_RV: Tensor) -> None:
        """Add the log-probabilities of the prompt's tokens after those of the step, as far as they are unknown."""
        branch = item.branch
        if branch.scores is None or item.wanted < item.length:
            return
        sequence = branch.sequence
        first = max(branch.scored, item.first + 1)
        last = min(item.end + 1, sequence.prompt_length)
        if first < last:
            rows_RV = logits_RV[first - item.first - 1 : last - item.first - 1, : self.vocab_size]
            branch.scores += token_logprobs(rows_RV, sequence.ids[first:last], branch.job.score_top or 0)
            sequence.reuse_limit = last - 1

    def _rows(self, item: StepItem) -> list[SampleRow]:
        branch, params = item.branch, item.branch.job.params
        drafts = branch.sequence.drafts
        masks = _masks(branch, drafts[: item.choosing - 1], self.vocab_size) if item.choosing else []
        return [
            SampleRow(
                params,
                branch.text.tokens + ahead,
                branch.seed,
                branch.choice,
                branch.history if not ahead or branch.history is None else branch.history.followed_by(drafts[:ahead]),
                masks[ahead],
                branch.text.stop_tokens,
            )
            for ahead in range(item.choosing)
        ]

    def _expert_counts(self, output: StepOutput, items: Sequence[StepItem]) -> list[tuple[int, ...]] | None:
        """Number of FFN experts of the token of every row of logits, by layer; None if nobody asks."""
        if not any(item.branch.job.params.expert_counts for item in items):
            return None
        wanted: list[int] = []
        start = 0
        for item in items:
            start += item.length
            wanted += range(start - item.wanted, start)
        index_R = torch.tensor(wanted, device=self.device)
        by_layer = [(layer.experts_TK[index_R] < self.experts).sum(-1).tolist() for layer in output.routing]
        return list(zip(*by_layer, strict=True))


def _masks(branch: Branch, drafts: Sequence[int], vocab_size: int) -> list[Tensor | None]:
    """What the grammar allows after the text, and after each of the drafts; a draft it forbids is never chosen."""
    matcher = branch.matcher
    if matcher is None:
        return [None] * (1 + len(drafts))
    allowed = matcher.valid_prefix(drafts)
    masks = torch.zeros(1 + allowed, -(-vocab_size // 32), dtype=torch.int32).unbind()
    for place, words_W in enumerate(masks):
        if place:
            matcher.accept(drafts[place - 1])
        matcher.mask(words_W)
    matcher.rollback(allowed)
    return [*masks, *[masks[-1]] * (len(drafts) - allowed)]


def _verified(item: StepItem, found: Sequence[tuple[Sampled, int]], counts_RL: list[tuple[int, ...]] | None) -> Outcome:
    """The chosen tokens up to the first that differs from the draft at its position."""
    chosen: list[Chosen] = []
    asked = item.branch.job.params.expert_counts and counts_RL is not None
    for ahead, (sampled, row) in enumerate(found):
        if sampled.error is not None:
            return Outcome(chosen, sampled.error)
        chosen.append(Chosen(sampled.token, sampled.logprobs, counts_RL[row] if asked and counts_RL else None))
        if ahead + 1 < len(found) and item.branch.sequence.drafts[ahead] != sampled.token:
            break
    return Outcome(chosen)


def _take(logits_RV: Tensor, places: list[int]) -> Tensor:
    if places == list(range(len(logits_RV))):
        return logits_RV
    return logits_RV[torch.tensor(places, dtype=torch.int64, device=logits_RV.device)]
