"""Native sparse attention on latents (NSA, arXiv:2502.11089; on MLA as in Meituan's SGLang-FluentLLM; the global
attention of ASA, arXiv:2511.00819).

    o_t = sum of g_b * o_b over the branches b: compressed, selected, window
    compressed   block i is sum_j phi_ij c_(i d + j), j < l, phi_i = softmax(W [c_(i d) .. c_(i d + l - 1)]); latents
                 and rotary keys have a W each; token t sees block i if i d + l - 1 <= t, and gets zero if it sees none
    selected     the positions of the top-n selection blocks by p_j = sum_i p_i overlap(i, j) / d, where p_i are the
                 probabilities of the compressed blocks, summed over a group of heads or the greatest of it; the first
                 and the last blocks always
    window       the last positions
    g            sigmoid or softmax over the branches of U_h [o_compressed | o_selected | o_window]

The choice is that of the first of `query_group` queries for all of them, and a constant for the gradient; ties go to
the lowest block. Rotary keys are rotated to the last position of their block before W, so that the weights do not
depend on where the document lies in its row; this is our own choice. With grouped latents (`latents`) every group of
heads has a part of the latent for itself; the sizes of ASA's groups are not published (UNVERIFIED), here all are equal.

Names: B batch, T tokens, S positions, H heads, G groups of heads, N compressed blocks, J selection blocks, K chosen
blocks, A active branches, C latent width, R rotary width, V value width, E = C + R, L positions of a compressed block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch.utils.checkpoint import checkpoint

from longcat.kernels.mla_attention import Window, mla_attention
from longcat.kernels.mla_project import Projected
from longcat.kernels.mla_sparse import mla_sparse
from longcat.kernels.rope import rope
from longcat.model.attention.base import MixerOutput, SequenceContext, SequenceMixer
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.nsa_choice import ABSENT, choose, overlaps, positions_of, window_positions
from longcat.model.attention.nsa_options import NSAOptions
from longcat.model.attention.nsa_state import SummaryRows
from longcat.model.attention.options import MixerOptions
from longcat.model.attention.paged_mla import absorbed_queries
from longcat.model.attention.pages import PageState, PerPosition, Several, Span, StateKind, StepState
from longcat.model.attention.rescaling import Exchange
from longcat.model.linear import Linear
from longcat.model.parameters import unset_parameter

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig
    from longcat.model.parameter_kinds import Kind

TILE_VALUES = 1 << 22  # scores of compressed blocks that exist at a time


class NativeSparseAttention(MultiHeadLatentAttention):
    """See the module."""

    kind: ClassVar[str] = "nsa"
    rescales: ClassVar[bool] = False
    Options = NSAOptions

    def __init__(self, config: ModelConfig, slot: int, options: NSAOptions) -> None:
        super().__init__(config, slot, options)
        self.options, self._sees_all = options, False
        self.local = Window(options.window)
        size, active = options.compress_size, options.branches.count("1")
        self.compresses, self.selects, self.slides = (flag == "1" for flag in options.branches)
        if self.compresses or self.selects:
            self.compress_latent = Linear(size * self.latent_width, size)
            self.compress_rope = Linear(size * self.rope_width, size)
        if options.latents > 1:
            self.kv_b_proj = Linear(self.latent_width // options.latents, self.kv_b_proj.weight.shape[0])
        self.gate = unset_parameter(self.heads, active, active * self.value_width)

    @classmethod
    def check(cls, config: ModelConfig, options: MixerOptions) -> None:
        assert isinstance(options, NSAOptions)  # noqa: S101  parsed as such
        options.check(config)

    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        if not isinstance(state, tuple):
            return super().forward(x_BTD, where, state)
        layout = where.layout
        assert layout is not None  # noqa: S101  a step has one
        projected = self.project(x_BTD, where)
        joint_TE = torch.cat((projected.latent_BTC, projected.k_rope_BTR), dim=-1)[0]
        latents, *others = state
        assert isinstance(latents, PageState)  # noqa: S101  as in `state_kind`
        latents.store(layout, joint_TE)
        angles_TP = where.angles[self.rope_width]
        pieces = []
        for index, span in enumerate(layout.spans):
            own = slice(span.first, span.end)
            seen_SE = latents.read(layout, index)
            rows = [SummaryRows(other, layout, index) for other in others if isinstance(other, PageState)]
            part = Projected(*(x[:, own] for x in projected))
            pieces.append(self._piece(part, seen_SE, span, angles_TP[own], rows))
        return MixerOutput(self.o_proj(torch.cat(pieces).unsqueeze(0).flatten(2)))

    def _piece(
        self,
        part: Projected,
        seen_SE: torch.Tensor,
        span: Span,
        angles_TP: torch.Tensor,
        rows: list[SummaryRows],
    ) -> torch.Tensor:
        """Output [T, H, V] of a piece of a step; its compressed blocks and its choices are kept."""
        q_THE = absorbed_queries(self, part.q_nope_BTHN[0], part.q_rope_BTHR[0])
        at_T = torch.arange(span.start, span.length, device=q_THE.device)
        branches = []
        if rows:
            compressed_NE = self._extended(seen_SE, span, angles_TP, rows[0])
            if self.compresses:
                branches.append(self._values(self._compressed(q_THE, compressed_NE, at_T)))
            if self.selects:
                chosen_GTK = self._recalled(q_THE, compressed_NE, span, rows[1])
                branches.append(self._values(self._selected(q_THE, seen_SE, chosen_GTK, at_T)))
        if self.slides:
            branches.append(self._window(part, q_THE, seen_SE, at_T))
        return self._gated(branches)

    def _extended(self, seen_SE: torch.Tensor, span: Span, angles_TP: torch.Tensor, rows: SummaryRows) -> torch.Tensor:
        """Compressed blocks [N, E] of a sequence; those that the piece completes are kept at their last position."""
        size, stride = self.options.compress_size, self.options.compress_stride
        known, count, shift = (
            self.options.compressed(span.start),
            self.options.compressed(span.length),
            size // stride - 1,
        )
        before_NE = rows.read(shift, shift + known)
        if count == known:
            return before_NE
        first = known * stride
        ends = [block * stride + size - 1 - span.start for block in range(known, count)]
        new_NE = self._compress(seen_SE[first:], angles_TP[ends])
        rows.write(shift + known, new_NE)
        return torch.cat((before_NE, new_NE))

    def _recalled(
        self, q_THE: torch.Tensor, compressed_NE: torch.Tensor, span: Span, rows: SummaryRows
    ) -> torch.Tensor:
        """Choices [G, T, K] of a piece: kept ones if the first query of a group is before it."""
        group = self.options.query_group
        first, last = span.start // group, (span.length - 1) // group
        new = -(-span.start // group)
        at_F = torch.arange(new * group, max(new * group, span.length), group, device=q_THE.device)
        chosen_GFK = self._choose(q_THE[at_F - span.start], compressed_NE, at_F)
        rows.write_numbers(new, chosen_GFK.transpose(0, 1).flatten(1))
        kept_FX = rows.read_numbers(first, last + 1)
        kept_GFK = kept_FX.unflatten(1, (self.options.head_groups, -1)).transpose(0, 1)
        at_T = torch.arange(span.start, span.length, device=q_THE.device)
        return kept_GFK[:, at_T // group - first]

    def attend(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        where: SequenceContext,
    ) -> torch.Tensor:
        """Attention output [B, T, H, V] of whole rows."""
        batch, tokens = q_nope_BTHN.shape[:2]
        branches = []
        if self.compresses or self.selects:
            lengths = [tokens] * batch if where.documents is None else where.documents.lengths
            q_XHE = absorbed_queries(self, q_nope_BTHN.flatten(0, 1), q_rope_BTHR.flatten(0, 1))
            e_XE = torch.cat((latent_BSC, k_rope_BSR), dim=-1).flatten(0, 1)
            angles_XP = where.angles[self.rope_width].repeat(batch, 1)
            parts = zip(*(x.split(lengths) for x in (q_XHE, e_XE, angles_XP)), strict=True)
            documents = [self._document(*part) for part in parts]
            branches = [self._values(torch.cat(o)).unflatten(0, (batch, tokens)) for o in zip(*documents, strict=True)]
        if self.slides:
            k_BSHQ, v_BSHV = self.expand(latent_BSC, k_rope_BSR)
            q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)
            branches.append(mla_attention(q_BTHQ, k_BSHQ, v_BSHV, self.softmax_scale, where.documents, self.local))
        return self._gated([o.flatten(0, 1) for o in branches]).unflatten(0, (batch, tokens))

    def _document(self, q_THE: torch.Tensor, e_TE: torch.Tensor, angles_TP: torch.Tensor) -> list[torch.Tensor]:
        """Sums of latents [T, H, C] of the compressed and the selected branch, as far as they are on."""
        options, tokens = self.options, q_THE.shape[0]
        at_T = torch.arange(tokens, device=q_THE.device)
        last = options.compress_size - 1
        compressed_NE = self._compress(e_TE, angles_TP[last :: options.compress_stride])
        found = []
        if self.compresses:
            found.append(self._compressed(q_THE, compressed_NE, at_T))
        if self.selects:
            firsts = slice(None, None, options.query_group)
            chosen_GFK = self._choose(q_THE[firsts], compressed_NE, at_T[firsts])
            found.append(self._selected(q_THE, e_TE, chosen_GFK[:, at_T // options.query_group], at_T))
        return found

    def _compress(self, e_SE: torch.Tensor, angles_NP: torch.Tensor) -> torch.Tensor:
        """Blocks [N, E] of consecutive positions, as many as there are angles, each those of its last position."""
        size, count = self.options.compress_size, angles_NP.shape[0]
        if not count:
            return e_SE[:0]
        blocks_NLE = e_SE.unfold(0, size, self.options.compress_stride)[:count].transpose(1, 2)
        latent_NLC, rope_NLR = blocks_NLE.split((self.latent_width, self.rope_width), dim=-1)
        turned_NLR = rope(rope_NLR.unsqueeze(0), -angles_NP)[0]
        of_latent_NL = self.compress_latent(latent_NLC.flatten(1)).softmax(-1)
        of_rope_NL = self.compress_rope(turned_NLR.flatten(1)).softmax(-1)
        sums = (
            torch.bmm(w.unsqueeze(1), x).squeeze(1) for w, x in ((of_latent_NL, latent_NLC), (of_rope_NL, rope_NLR))
        )
        return torch.cat(tuple(sums), dim=-1)

    def _probabilities(self, q_THE: torch.Tensor, compressed_NE: torch.Tensor, at_T: torch.Tensor) -> torch.Tensor:
        """Probabilities of compressed blocks [H, T, N]; all zero for a query that sees none."""
        scores_HTN = torch.matmul(q_THE.transpose(0, 1), compressed_NE.t()) * self.softmax_scale
        index_N = torch.arange(compressed_NE.shape[0], device=q_THE.device)
        ends_N = index_N * self.options.compress_stride + self.options.compress_size - 1
        seen_TN = ends_N <= at_T.unsqueeze(1)
        hidden_TN = ~seen_TN & seen_TN.any(1, keepdim=True)
        return scores_HTN.masked_fill(hidden_TN, float("-inf")).softmax(-1) * seen_TN

    def _compressed(self, q_THE: torch.Tensor, compressed_NE: torch.Tensor, at_T: torch.Tensor) -> torch.Tensor:
        """Sums of compressed latents [T, H, C], in tiles of queries whose probabilities are not kept."""

        def tile(q_UHE: torch.Tensor, compressed_NE: torch.Tensor, at_U: torch.Tensor) -> torch.Tensor:
            p_HUN = self._probabilities(q_UHE, compressed_NE, at_U)
            return torch.matmul(p_HUN, compressed_NE[:, : self.latent_width]).transpose(0, 1)

        count = compressed_NE.shape[0]
        if not count:
            return q_THE.new_zeros(*q_THE.shape[:2], self.latent_width)
        size = max(1, TILE_VALUES // (self.heads * count))
        parts = zip(q_THE.split(size), at_T.split(size), strict=True)
        if torch.is_grad_enabled() and q_THE.shape[0] > size:
            return torch.cat([checkpoint(tile, q, compressed_NE, at, use_reentrant=False) for q, at in parts])
        return torch.cat([tile(q, compressed_NE, at) for q, at in parts])

    @torch.no_grad()
    def _choose(self, q_FHE: torch.Tensor, compressed_NE: torch.Tensor, at_F: torch.Tensor) -> torch.Tensor:
        """Selection blocks [G, F, K] of queries that choose."""
        options, count = self.options, compressed_NE.shape[0]
        blocks = int(at_F[-1]) // options.block + 1 if at_F.numel() else 0
        chosen_GFK = at_F.new_full((options.head_groups, at_F.shape[0], options.top_n), ABSENT)
        weights_NJ = overlaps(count, blocks, options.compress_size, options.compress_stride, options.block).to(q_FHE)
        size = max(1, TILE_VALUES // (self.heads * max(count, 1)))
        for first in range(0, at_F.shape[0], size):
            part = slice(first, first + size)
            p_HFN = self._probabilities(q_FHE[part], compressed_NE, at_F[part])
            p_GXFN = p_HFN.unflatten(0, (options.head_groups, -1))
            p_GFN = p_GXFN.sum(1) if options.group_scores == "sum" else p_GXFN.amax(1)
            scores_GFJ = torch.matmul(p_GFN, weights_NJ)
            limits = options.block, options.top_n, options.initial_blocks, options.local_blocks
            found_GFK = choose(scores_GFJ, at_F[part], *limits)
            chosen_GFK[:, part, : found_GFK.shape[-1]] = found_GFK
        return chosen_GFK

    def _selected(
        self, q_THE: torch.Tensor, e_SE: torch.Tensor, chosen_GTK: torch.Tensor, at_T: torch.Tensor
    ) -> torch.Tensor:
        """Sums of latents [T, H, C] of the positions in the chosen blocks."""
        parts = zip(q_THE.chunk(self.options.head_groups, dim=1), chosen_GTK, strict=True)
        return torch.cat(
            [
                self._sparse(q_TXE, e_SE, positions_of(chosen_TK, at_T, self.options.block))
                for q_TXE, chosen_TK in parts
            ],
            dim=1,
        )

    def _sparse(self, q_THE: torch.Tensor, e_SE: torch.Tensor, chosen_TX: torch.Tensor) -> torch.Tensor:
        return mla_sparse(q_THE[None], e_SE[None], chosen_TX[None], self.latent_width, self.softmax_scale)[0]

    def _window(self, part: Projected, q_THE: torch.Tensor, seen_SE: torch.Tensor, at_T: torch.Tensor) -> torch.Tensor:
        """Output [T, H, V] of the window branch of a piece."""
        if q_THE.shape[0] == 1:
            return self._values(self._sparse(q_THE, seen_SE, window_positions(at_T, self.local.size)))
        near_1SE = seen_SE[max(0, int(at_T[0]) + 1 - self.local.size) :].unsqueeze(0)
        k_1SHQ, v_1SHV = self.expand(*near_1SE.split((self.latent_width, self.rope_width), dim=-1))
        q_1THQ = torch.cat((part.q_nope_BTHN, part.q_rope_BTHR), dim=-1)
        return mla_attention(q_1THQ, k_1SHQ, v_1SHV, self.softmax_scale, None, self.local)[0]

    def _values(self, o_XHC: torch.Tensor) -> torch.Tensor:
        """Values [X, H, V] of sums of latents."""
        _, w_value_HVC = self.absorbed_weights()
        return torch.bmm(o_XHC.transpose(0, 1), w_value_HVC.mT).transpose(0, 1)

    def _gated(self, branches: list[torch.Tensor]) -> torch.Tensor:
        """Sum [X, H, V] of the branches [X, H, V] with their gates."""
        all_XHAV = torch.stack(branches, dim=2)
        logits_XHA = torch.bmm(all_XHAV.flatten(2).transpose(0, 1), self.gate.mT).transpose(0, 1)
        weights_XHA = logits_XHA.sigmoid() if self.options.gate == "sigmoid" else logits_XHA.softmax(-1)
        return (all_XHAV * weights_XHA.unsqueeze(-1)).sum(2)

    def expand(self, latent_BSC: torch.Tensor, k_rope_BSR: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        groups = self.options.latents
        if groups == 1:
            return super().expand(latent_BSC, k_rope_BSR)
        w_GXY = self.kv_b_proj.weight.unflatten(0, (groups, -1))
        kv_BSGX = torch.einsum("bsgy,gxy->bsgx", latent_BSC.unflatten(-1, (groups, -1)), w_GXY)
        kv_BSHX = kv_BSGX.flatten(2).unflatten(-1, (self.heads, -1))
        k_nope_BSHN, v_BSHV = kv_BSHX.split((self.nope_width, self.value_width), dim=-1)
        return torch.cat((k_nope_BSHN, k_rope_BSR.unsqueeze(2).expand(-1, -1, self.heads, -1)), dim=-1), v_BSHV

    def absorbed_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As in `mla`; with grouped latents, zeros in the parts of other groups."""
        if self.options.latents == 1:
            return super().absorbed_weights()
        w_HXY = self.kv_b_proj.weight.view(self.heads, -1, self.latent_width // self.options.latents)
        own_HG = torch.eye(self.options.latents).repeat_interleave(self.heads // self.options.latents, 0).to(w_HXY)
        w_HXC = (w_HXY.unsqueeze(2) * own_HG[:, None, :, None]).flatten(2)
        return w_HXC.narrow(1, 0, self.nope_width), w_HXC.narrow(1, self.nope_width, self.value_width)

    def exchanges(self) -> tuple[Exchange, ...]:
        return SequenceMixer.exchanges(self)

    @classmethod
    def parameter_kind(cls, name: str, dimensions: int) -> Kind | None:
        """The gates of a head sum over its values, whatever the width."""
        return "vector" if name == "gate" else None

    def state_kind(self) -> StateKind:
        options, width = self.options, self.latent_width + self.rope_width
        kinds = [PerPosition(width)]
        if self.compresses or self.selects:
            kinds.append(PerPosition(width, options.compress_stride))
        if self.selects:
            kinds.append(PerPosition(options.head_groups * options.top_n, options.query_group))
        return Several(tuple(kinds))

    def state_values(self, length: int) -> int:
        kinds = self.state_kind()
        assert isinstance(kinds, Several)  # noqa: S101  as above
        return sum(-(-length // kind.every) * kind.width for kind in kinds.kinds if isinstance(kind, PerPosition))

    def flops(self, tokens: int, cached: int) -> int:
        options, width = self.options, self.latent_width + self.rope_width
        end = cached + tokens
        total = 2 * tokens * self.gate.numel()
        if self.compresses or self.selects:
            total += 2 * options.compress_size * width * (options.compressed(end) - options.compressed(cached))
        if self.compresses:
            total += 2 * (options.compressed_pairs(end) - options.compressed_pairs(cached)) * self._absorbed_width()
        if self.selects:
            group = options.query_group
            choosing = sum(options.compressed(at + 1) for at in range(-(-cached // group) * group, end, group))
            pairs = Window(options.top_n * options.block, 0, options.block).pairs(tokens, cached)
            total += 2 * choosing * self.heads * width + 2 * pairs * self._absorbed_width()
        absorbed = self.compresses + self.selects
        if self.slides:
            pairs = self.local.pairs(tokens, cached)
            alone = tokens == 1 and cached > 0
            total += 2 * pairs * (self._absorbed_width() if alone else self.expanded_values())
            absorbed += alone
        return total + 2 * tokens * max(0, absorbed - 1) * self.heads * self.latent_width * self.value_width
