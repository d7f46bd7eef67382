"""The offloaded cache of one attention slot, and attention over it (AsyncTLS, arXiv 2604.07815).

All positions are in pages of the slow tier; prompts attend to them there. A token that is generated attends to blocks
in the fast tier: to all of its sequence while these fit, exactly as without offloading; later

    position t:  attend to B_{t-1}, the first and the newest block; with a token budget, to the positions of these with
                 the greatest scores of the INT4 index, the newest block always included
                 B_t = the blocks with the greatest scores of their summaries, the first and the newest included
                 copy B_t \\ B_{t-1} while the other layers compute

The last token of a prompt chooses the blocks of the first generated one, which waits for them. What a token attends to
depends on its text and the length of the prompt alone, and not on steps, drafts or other texts.

Names: T tokens of the step, H heads, E width of a cached position, C latent width, P pages, L positions per page,
W = E, S positions of a sequence, N chosen positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from longcat.kernels.mla_paged_decode import SequencePages, mla_paged_decode
from longcat.kernels.mla_project import Projected
from longcat.kernels.precision import accumulation_dtype
from longcat.model.attention.base import SequenceContext
from longcat.model.attention.offload.copier import Copier
from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.attention.offload.parts import Part, Parts, Token, divide
from longcat.model.attention.offload.resident import Resident
from longcat.model.attention.offload.selection import greatest, merged, scoring_queries
from longcat.model.attention.offload.slow_tier import SlowPages, SlowTier
from longcat.model.attention.offload.stats import OffloadStats
from longcat.model.attention.offload.summaries import make_summaries
from longcat.model.attention.paged_mla import LatentMixer, absorbed_queries, expanded_outputs
from longcat.model.attention.pages import PageState, StepLayout
from longcat.model.errors import ModelError

# Choices that are kept for a slot: those after the last wanted position are of rejected drafts.
KEPT_CHOICES = 64


class OffloadedMixer(LatentMixer, Protocol):
    """What an offloaded cache needs of latent attention (`model.attention.mla`)."""

    def project(self, x_BTD: torch.Tensor, where: SequenceContext) -> Projected:
        """Queries, latents and rotary keys of the tokens."""

    def attend_in_step(self, x_1TD: torch.Tensor, where: SequenceContext, state: PageState) -> torch.Tensor:
        """Attention output [1, T, H, V] of the tokens of a step, which are cached."""


class OffloadState(PageState):
    """Pages of one mixer in the slow tier, and blocks of its sequences in the fast tier, on `device`."""

    def __init__(
        self,
        pages_PLW: torch.Tensor,
        slots: int,
        options: OffloadOptions,
        tier: SlowTier,
        copier: Copier,
        stats: OffloadStats,
        device: torch.device,
    ) -> None:
        super().__init__(pages_PLW)
        pages, _, width = pages_PLW.shape
        self.options, self.device, self._stats = options, device, stats
        self._slow = SlowPages(pages_PLW, tier)
        self._summaries = make_summaries(options, pages, width, pages_PLW.dtype, device)
        channels = min(options.index_channels or width, width) if options.token_budget else None
        # One more than are chosen: the block that has begun since the last choice.
        self._resident = Resident(slots, options.resident_blocks + 1, channels, device, copier, self._slow)
        self._choices: list[dict[int, list[int]]] = [{} for _ in range(slots)]

    @property
    def resident_bytes(self) -> int:
        """Bytes of the fast tier: blocks, token index, summaries."""
        return self._resident.nbytes + self._summaries.nbytes

    def copied(self, source: int, target: int) -> None:
        """Note that a page was copied in the slow tier."""
        self._slow.versions[target] += 1
        self._summaries.copy(source, target)

    def settle(self) -> None:
        """Wait for the copies under way."""
        self._resident.settle()

    def attend(self, mixer: OffloadedMixer, x_1TD: torch.Tensor, where: SequenceContext) -> torch.Tensor:
        """Attention output [1, T, H, V] of the tokens of a step, which are cached."""
        layout = where.layout
        assert layout is not None  # noqa: S101  a step has one
        self.settle()
        self._begin(layout)
        parts: Parts = layout.once(("offload", self.options), lambda: divide(layout, self.options.dense_positions))
        outputs = [(part, self._whole(mixer, x_1TD, where, part)) for part in (parts.whole,) if part is not None]
        for token in parts.last:
            self._choose_after_prompt(mixer, x_1TD, where, token)
        outputs += [(part, self._fitting(mixer, x_1TD, where, part)) for part in (parts.fitting,) if part is not None]
        if parts.sparse is not None:
            outputs.append((parts.sparse, self._sparse(mixer, x_1TD, where, parts.sparse, parts.sparse_tokens)))
        if outputs[0][0].tokens_N is None:
            return outputs[0][1]
        o_1THV = x_1TD.new_empty(1, x_1TD.shape[1], mixer.heads, mixer.value_width)
        for part, o_1NHV in outputs:
            o_1THV[:, part.tokens_N] = o_1NHV
        return o_1THV

    # Memory

    def _begin(self, layout: StepLayout) -> None:
        """Note the pages whose first position is about to be written: their earlier contents are void."""
        size = layout.page_size
        for span, table in zip(layout.spans, layout.tables, strict=True):
            for block in range(-(-span.start // size), -(-span.length // size)):
                self._slow.versions[table[block]] += 1

    def keep(self, layout: StepLayout, values_TW: torch.Tensor) -> None:
        """Write the values of tokens to the slow tier, and what depends on them."""
        values_TW = values_TW.to(self.pages_PLW.device)
        super().store(layout, values_TW)
        self._slow.tier.touched(values_TW.nbytes)
        size, part = layout.page_size, self._summaries.part
        complete: list[int] = []
        for span, table in zip(layout.spans, layout.tables, strict=True):
            for index in range(span.start // part, span.length // part):
                page, within = divmod(index * part, size)
                complete.append((table[page] * size + within) // part)
            self._put(span.start, table, span.slot, values_TW[span.first : span.end])
        if complete:
            parts_X = torch.tensor(complete, device=self.device)
            values_XSW = self.pages_PLW.view(-1, part, values_TW.shape[1]).index_select(0, parts_X.cpu())
            self._summaries.update(parts_X, values_XSW)

    def _put(self, start: int, table: Sequence[int], slot: int, values_NW: torch.Tensor) -> None:
        size, end = self.options.block, start + values_NW.shape[0]
        while start < end:
            block, first = divmod(start, size)
            stop = min(end, (block + 1) * size)
            self._resident.put(slot, block, table[block], first, values_NW[: stop - start])
            values_NW, start = values_NW[stop - start :], stop

    # Dense attention

    def _whole(self, mixer: OffloadedMixer, x_1TD: torch.Tensor, where: SequenceContext, part: Part) -> torch.Tensor:
        """Attend to all positions of the sequences."""
        layout = part.layout
        if self.pages_PLW.device == self.device:
            o_1THV = mixer.attend_in_step(*_step_of(x_1TD, where, part, layout), _Writing(self, self.pages_PLW, layout))
            self._slow.tier.touched(sum(span.length for span in layout.spans) * self.pages_PLW[0, 0].nbytes)
            return o_1THV
        blocks = [-(-span.length // layout.page_size) for span in layout.spans]
        pages_PLW = self.pages_PLW.new_zeros((sum(blocks), *self.pages_PLW.shape[1:]), device=self.device)
        tables, taken = [], 0
        for span, table, count in zip(layout.spans, layout.tables, blocks, strict=True):
            tables.append(list(range(taken, taken + count)))
            for block in range(-(-span.start // layout.page_size)):
                self._slow.read(table[block], pages_PLW[taken + block])
            taken += count
        here = StepLayout(layout.spans, tables, layout.page_size, layout.device)
        return mixer.attend_in_step(*_step_of(x_1TD, where, part, here), _Writing(self, pages_PLW, layout))

    def _fitting(self, mixer: OffloadedMixer, x_1TD: torch.Tensor, where: SequenceContext, part: Part) -> torch.Tensor:
        """Attend to all positions of sequences, whose blocks are in the fast tier."""
        layout, tables = part.layout, []
        for span, table in zip(layout.spans, layout.tables, strict=True):
            blocks = range(-(-span.length // layout.page_size))
            self._stats.moved_bytes += self._resident.fetch(span.slot, blocks, table).nbytes
            tables.append(tuple(self._resident.frames(span.slot, blocks)))
        here: StepLayout = layout.once(
            ("frames", tuple(tables)), lambda: StepLayout(layout.spans, tables, layout.page_size, layout.device)
        )
        return mixer.attend_in_step(
            *_step_of(x_1TD, where, part, here), _Writing(self, self._resident.frames_FLW, layout)
        )

    # Attention to chosen positions

    def _sparse(
        self,
        mixer: OffloadedMixer,
        x_1TD: torch.Tensor,
        where: SequenceContext,
        part: Part,
        tokens: Sequence[Token],
    ) -> torch.Tensor:
        x_1ND, here = _step_of(x_1TD, where, part, part.layout)
        projected = mixer.project(x_1ND, here)
        self.keep(part.layout, torch.cat((projected.latent_BTC, projected.k_rope_BTR), dim=-1)[0])
        q_NHE = absorbed_queries(mixer, projected.q_nope_BTHN[0], projected.q_rope_BTHR[0])
        assert where.layout is not None  # noqa: S101  a step has one
        o_NHC = torch.stack([self._token(mixer, q_NHE[token.place], token, where.layout) for token in tokens])
        return expanded_outputs(mixer, o_NHC).unsqueeze(0)

    def _token(self, mixer: OffloadedMixer, q_HE: torch.Tensor, token: Token, layout: StepLayout) -> torch.Tensor:
        """Output [H, C] of one token, whose choice for the next one is kept and copied."""
        self.settle()
        table, size = layout.tables[token.sequence], layout.page_size
        blocks = self._blocks_of(token)
        self._stats.moved_bytes += self._resident.fetch(token.slot, blocks, table).nbytes
        frames = self._resident.frames(token.slot, blocks)
        length = (len(blocks) - 1) * size + token.position % size + 1
        scaled_HE = q_HE * mixer.softmax_scale
        rows_N = self._chosen_rows(mixer, scaled_HE, frames, length)
        if self.options.measure_every and token.position % self.options.measure_every == 0:
            self._measure(scaled_HE, token, table, blocks, length, rows_N)
        frames_FLW = self._resident.frames_FLW
        if rows_N is None:
            pages, read = frames_FLW, SequencePages.of([frames], [length], size, self.device)
        else:
            starts = torch.tensor(frames, device=self.device).mul_(size)
            places_N = starts[rows_N // size] + rows_N % size
            pages = frames_FLW.flatten(0, 1).index_select(0, places_N).unsqueeze(0)
            read = SequencePages.of([[0]], [len(places_N)], len(places_N), self.device)
        o_11HC = mla_paged_decode(q_HE[None, None], pages, read, None, mixer.latent_width, mixer.softmax_scale)
        chosen = self._choose(scaled_HE, token, layout)
        self._stats.choose(self._resident.fetch(token.slot, chosen, table, later=self.options.mode == "async"))
        return o_11HC[0, 0]

    def _blocks_of(self, token: Token) -> list[int]:
        """Blocks that a token attends to, ascending: those chosen by the token before it, the first, the newest."""
        newest, before = token.position // self.options.block, token.position - 1
        if before // self.options.block < self.options.resident_blocks:
            return list(range(newest + 1))
        chosen = self._choices[token.slot].get(before)
        if chosen is None:
            raise ModelError(
                f"slot {token.slot} holds no choice of blocks after position {before}; compute the sequence again from "
                "the end of its prompt"
            )
        return sorted({*chosen, newest})

    def _chosen_rows(
        self, mixer: OffloadedMixer, scaled_HE: torch.Tensor, frames: Sequence[int], length: int
    ) -> torch.Tensor | None:
        """Chosen positions, ascending, numbered through the blocks; None for all."""
        budget, size = self.options.token_budget, self.options.block
        if not budget or length <= budget:
            return None
        if self._resident.channels_R is None:
            self._resident.channels_R = self._index_channels(mixer)
        older = (len(frames) - 1) * size
        q_HR = scoring_queries(scaled_HE.index_select(1, self._resident.channels_R), self.options.heads)
        index_XR = self._resident.index(frames[:-1], q_HR.dtype).flatten(0, 1)
        scores_X = merged(q_HR @ index_XR.t(), self.options.heads)
        newest = torch.arange(older, length, device=self.device)
        return torch.cat((greatest(scores_X, budget - len(newest)), newest))

    def _index_channels(self, mixer: OffloadedMixer) -> torch.Tensor:
        """Channels of the token index: rotary ones, then the latent ones with the largest weights to keys."""
        width = self.pages_PLW.shape[2]
        weight_C = mixer.absorbed_weights()[0].float().square().sum(dim=(0, 1))
        rotary = weight_C.new_full((width - len(weight_C),), float("inf"))
        return greatest(torch.cat((weight_C, rotary)), self.options.index_channels or width)

    def _choose(self, scaled_HE: torch.Tensor, token: Token, layout: StepLayout) -> list[int]:
        """Blocks for the token after this one, ascending; kept for it."""
        count, most = token.position // self.options.block + 1, self.options.resident_blocks
        if count <= most:
            return list(range(count))
        # The newest block is left out: its summary is not complete, and may be of rejected drafts.
        pages_N = layout.sequences.table_BM[token.sequence, : count - 1]
        scores_N = self._summaries.scores(scaled_HE, pages_N, self.options.heads)
        scores_N[0] = float("inf")
        chosen: list[int] = [*greatest(scores_N, most - 1).tolist(), count - 1]
        kept = self._choices[token.slot]
        kept[token.position] = chosen
        for position in list(kept):
            if not token.position - KEPT_CHOICES < position <= token.position:
                del kept[position]
        return chosen

    def _choose_after_prompt(
        self, mixer: OffloadedMixer, x_1TD: torch.Tensor, where: SequenceContext, token: Token
    ) -> None:
        assert where.layout is not None  # noqa: S101  a step has one
        one = Part(torch.tensor([token.place], device=self.device), where.layout)
        projected = mixer.project(*_step_of(x_1TD, where, one, where.layout))
        q_1HE = absorbed_queries(mixer, projected.q_nope_BTHN[0], projected.q_rope_BTHR[0])
        self._choose(q_1HE[0] * mixer.softmax_scale, token, where.layout)

    def _measure(
        self,
        scaled_HE: torch.Tensor,
        token: Token,
        table: Sequence[int],
        blocks: Sequence[int],
        length: int,
        rows_N: torch.Tensor | None,
    ) -> None:
        """Measure the part of the attention to all positions that goes to the chosen ones, mean over heads."""
        size, seen = self.options.block, token.position + 1
        rows_X = torch.arange(length) if rows_N is None else rows_N.cpu()
        positions_X = torch.tensor(blocks)[rows_X // size] * size + rows_X % size
        pages = torch.tensor(table[: -(-seen // size)])
        all_SW = self.pages_PLW.index_select(0, pages).flatten(0, 1)[:seen]
        wide = accumulation_dtype(scaled_HE.dtype)
        mass_HS = (scaled_HE.cpu().to(wide) @ all_SW.to(wide).t()).softmax(dim=-1)
        self._slow.tier.touched(all_SW.nbytes)
        self._stats.measure(float(mass_HS.index_select(1, positions_X).sum(dim=1).mean()))


class _Writing(PageState):
    """Pages that attention reads, for tokens that are also written to an offloaded cache."""

    def __init__(self, owner: OffloadState, pages_PLW: torch.Tensor, layout: StepLayout) -> None:
        super().__init__(pages_PLW)
        self._owner, self._layout = owner, layout

    def store(self, layout: StepLayout, values_TW: torch.Tensor) -> None:
        if self.pages_PLW is not self._owner.pages_PLW:
            super().store(layout, values_TW)
        self._owner.keep(self._layout, values_TW)


def _step_of(
    x_1TD: torch.Tensor, where: SequenceContext, part: Part, layout: StepLayout
) -> tuple[torch.Tensor, SequenceContext]:
    """A part of a step as a step of its own, with this layout."""
    if part.tokens_N is None:
        return x_1TD, where if layout is where.layout else replace(where, layout=layout)
    angles = {width: angles_TP.index_select(0, part.tokens_N) for width, angles_TP in where.angles.items()}
    positions_N = where.positions_T.index_select(0, part.tokens_N)
    return x_1TD.index_select(1, part.tokens_N), replace(where, positions_T=positions_N, angles=angles, layout=layout)
