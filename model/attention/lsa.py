"""LongCat Sparse Attention (arXiv 2608.01662): a token attends to the first positions of its document, to the last ones
before it, and to those that an indexer scores highest, `index_topk` in all.

The first attention module of a layer owns the indexer, the second one attends to the same positions (`cli_factor: 2`).
Rows with no more positions than `index_topk` are dense attention, bit for bit; the keys of the indexer are still
cached. Positions are constants for the gradient. The indexer learns by `distillation` (`model.attention.distillation`)
from the attention of both modules.

Names: B batch, T tokens, S positions, K chosen positions, C latent width, R rotary width, E = C + R, I width of an
indexer's keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator

from longcat.kernels.index_scores import Always, index_topk
from longcat.kernels.mla_project import Projected
from longcat.model.attention.base import MixerOutput, SequenceContext
from longcat.model.attention.chosen import ChosenPositions
from longcat.model.attention.distillation import Target, distillation_loss
from longcat.model.attention.document_starts import document_starts
from longcat.model.attention.index_pages import PageSizes, choose_all, choose_in_pages, store_means
from longcat.model.attention.indexer import Indexed, Indexer
from longcat.model.attention.options import MixerOptions
from longcat.model.attention.paged_mla import attend_in_pages
from longcat.model.attention.pages import PageState, PerPosition, Several, StateKind, StepState
from longcat.model.attention.sparse_figures import attention_figures
from longcat.model.bounds import MAX_CONTEXT, MAX_WIDTH
from longcat.model.mixers import spec_of_slot

if TYPE_CHECKING:
    from longcat.model.attention.pages import Span
    from longcat.model.config import ModelConfig

LOSS = "index_loss"
FIGURES = ("index_precision", "index_attention_mass", "attention_entropy")
# Pieces of a step with more tokens choose from all positions: a prompt is scored faster in one product.
PAGED_TOKENS = 8


class LSAOptions(MixerOptions):
    """Options of the kind `lsa`; the first ones have the names of published files (`model.attention.sparse_index`)."""

    index_topk: int = Field(default=2048, ge=1, le=MAX_CONTEXT, description="positions that a token attends to")
    index_n_heads: int | None = Field(
        default=None, ge=1, le=MAX_WIDTH, description="query heads of an indexer; null: half those of the attention"
    )
    index_head_dim: int = Field(default=128, ge=1, le=MAX_WIDTH, description="width of a head of an indexer")
    index_init_tokens: int = Field(default=16, ge=0, le=MAX_CONTEXT, description="first positions, always attended to")
    index_local_tokens: int = Field(
        default=1024, ge=0, le=MAX_CONTEXT, description="last positions, always attended to"
    )
    cli_factor: Literal[1, 2] = Field(default=2, description="attention modules of a layer with the same positions")
    indexer_rope_interleave: bool = Field(default=True, description="whether rotary pairs of an indexer are neighbours")
    distillation: Literal["none", "warm-up", "sparse"] = Field(
        default="none",
        description="loss of indexers: none; warm-up: of dense attention, over all positions; sparse: of chosen ones",
    )
    kept_pages: int = Field(
        default=0, ge=0, le=MAX_CONTEXT, description="pages that are searched while decoding; 0: all positions are"
    )
    page: int = Field(default=128, ge=1, le=MAX_CONTEXT, description="positions of such a page")
    block: int = Field(default=8, ge=1, le=MAX_CONTEXT, description="positions of a page with a mean key")
    first_paged_layer: int = Field(default=4, ge=0, description="layers before this one always search all positions")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        always = self.index_init_tokens + self.index_local_tokens
        if always > self.index_topk:
            raise ValueError(f"index_init_tokens + index_local_tokens = {always} exceed index_topk = {self.index_topk}")
        if not self.kept_pages:
            return self
        if self.page % self.block:
            raise ValueError(f"block = {self.block} does not divide page = {self.page}")
        pages_always = -(-self.index_init_tokens // self.page) + self.index_local_tokens // self.page + 2
        least = max(pages_always, -(-self.index_topk // self.page) + 1)
        if self.kept_pages < least:
            raise ValueError(
                f"kept_pages = {self.kept_pages} of {self.page} positions do not hold what is always chosen and "
                f"index_topk = {self.index_topk}; give at least {least}"
            )
        return self


@dataclass
class Chosen:
    """What the first module of a layer leaves to the second one.

    index: of the indexer, with gradients; None in a step. chosen_BTK: positions of every token, None if all.
    by_piece: those of the pieces of a step that have more positions than a token may choose.
    """

    index: Indexed | None = None
    chosen_BTK: torch.Tensor | None = None
    by_piece: dict[int, torch.Tensor] = field(default_factory=dict)


class _Memory(NamedTuple):
    """Pages of latents, of the indexer's keys, and of the means of its blocks."""

    latents: PageState
    keys: PageState | None = None
    means: PageState | None = None


class LongcatSparseAttention(ChosenPositions):
    """See the module."""

    kind: ClassVar[str] = "lsa"
    opaque: ClassVar[tuple[str, ...]] = ("forward",)
    Options = LSAOptions

    def __init__(self, config: ModelConfig, slot: int, options: LSAOptions) -> None:
        super().__init__(config, slot, options)
        self.count, self.options = options.index_topk, options
        self.always = Always(options.index_init_tokens, options.index_local_tokens)
        self.owns = owns_indexer(config, slot, options)
        pattern = config.mixers
        kinds = [spec_of_slot(pattern, one, config.num_layers).kind for one in range(config.mtp_slot)]
        self.modules_of_model = max(1, kinds.count(self.kind))
        pages = PageSizes(options.kept_pages, options.page, options.block)
        self.pages = pages if self.owns and pages.kept and slot // 2 >= options.first_paged_layer else None
        if self.owns:
            heads = options.index_n_heads or max(1, config.num_attention_heads // 2)
            assert config.q_lora_rank is not None  # noqa: S101  checked by `check`
            sizes = config.hidden_size, config.q_lora_rank, heads, options.index_head_dim, self.rope_width
            self.indexer = Indexer(*sizes, interleaved=options.indexer_rope_interleave)

    @classmethod
    def check(cls, config: ModelConfig, options: MixerOptions) -> None:
        assert isinstance(options, LSAOptions)  # noqa: S101  parsed as such
        if config.q_lora_rank is None:
            raise ValueError("index_topk needs q_lora_rank: an indexer takes its queries from that latent")
        if options.index_topk > config.max_position_embeddings:
            raise ValueError(
                f"index_topk = {options.index_topk} exceeds max_position_embeddings = "
                f"{config.max_position_embeddings}; that is dense attention, lower it or use 'mla'"
            )
        if options.index_head_dim < config.qk_rope_head_dim:
            raise ValueError(
                f"index_head_dim = {options.index_head_dim} is below qk_rope_head_dim = {config.qk_rope_head_dim}, the "
                "dimensions of it that are rotated"
            )

    @classmethod
    def check_slot(cls, config: ModelConfig, slot: int, options: MixerOptions) -> None:
        assert isinstance(options, LSAOptions)  # noqa: S101  parsed as such
        if not owns_indexer(config, slot, options) and (before := config.mixer(slot - 1).kind) != cls.kind:
            raise ValueError(
                f"attention slot {slot} attends to the positions of slot {slot - 1}, which is {before!r} and chooses "
                "none; set cli_factor: 1 there, or 'lsa' for both"
            )

    @classmethod
    def losses_of(cls, options: MixerOptions) -> tuple[str, ...]:
        assert isinstance(options, LSAOptions)  # noqa: S101  parsed as such
        return () if options.distillation == "none" else (LOSS, *FIGURES)

    @classmethod
    def trains_only(cls, options: MixerOptions) -> str | None:
        assert isinstance(options, LSAOptions)  # noqa: S101  parsed as such
        return "indexer" if options.distillation == "warm-up" else None

    @classmethod
    def conversion_problem(cls, before: str, options: MixerOptions) -> str | None:
        assert isinstance(options, LSAOptions)  # noqa: S101  parsed as such
        if before == cls.kind or options.distillation == "warm-up":
            return None
        return (
            f"distillation = {options.distillation!r}: the indexers of a model with {before!r} are new and choose "
            "positions at random; train them in a phase before this one, with distillation: warm-up"
        )

    @classmethod
    def budget_in(cls, config: ModelConfig, slot: int) -> int | None:
        options = config.mixer(slot).options
        assert isinstance(options, LSAOptions)  # noqa: S101  parsed as such
        return None if options.distillation == "warm-up" else options.index_topk  # then attention is dense

    @classmethod
    def head_rows(cls, config: ModelConfig, name: str) -> tuple[int, ...] | None:
        if name != "indexer.wq_b.weight":
            return super().head_rows(config, name)
        specs = (config.mixer(slot).options for slot in range(config.mtp_slot))
        return next(((one.index_head_dim,) for one in specs if isinstance(one, LSAOptions)), None)

    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        if state is not None:
            return self._step(x_BTD, where, state)
        projected = self.project(x_BTD, where)
        dense = self.options.distillation == "warm-up" or self.is_dense(x_BTD.shape[1], where)
        shared: Chosen = self._share(x_BTD, where, dense=dense) if self.owns else where.shared
        if dense:
            o_BTHV = self.attend(*projected, where)
        else:
            assert shared.chosen_BTK is not None  # noqa: S101  the first module of the layer has chosen
            e_BSE = torch.cat((projected.latent_BTC, projected.k_rope_BTR), dim=-1)
            o_BTHV = self.expand_values(self.attend_group(self.absorbed(projected), e_BSE, shared.chosen_BTK))
        losses = self._losses(projected, where, shared)
        return MixerOutput(self.o_proj(o_BTHV.flatten(2)), losses, shared)

    def _share(self, x_BTD: torch.Tensor, where: SequenceContext, *, dense: bool) -> Chosen:
        learns = self.options.distillation != "none" and torch.is_grad_enabled()
        if dense and not learns:
            return Chosen()
        index = self.index(x_BTD, where)
        if self.options.distillation == "warm-up":
            return Chosen(index)
        return Chosen(index if learns else None, self._choose(index, where))

    def index(self, x_BTD: torch.Tensor, where: SequenceContext) -> Indexed:
        """Queries, keys and weights of the indexer."""
        latent_BTL = self.q_a_layernorm(self.q_a_proj(x_BTD.detach()))
        found: Indexed = self.indexer(x_BTD, latent_BTL, where.angles[self.rope_width])
        return found

    def _choose(self, index: Indexed, where: SequenceContext) -> torch.Tensor:
        q_BTJI, k_BTI, w_BTJ = (x.detach() for x in index)
        return index_topk(q_BTJI, k_BTI, w_BTJ, self.count, self.always, where.documents, where.budgets_B)

    def choices(
        self, x_BTD: torch.Tensor, q_BTHE: torch.Tensor, e_BTE: torch.Tensor, where: SequenceContext
    ) -> list[torch.Tensor] | None:
        return [self._choose(self.index(x_BTD, where), where)] if self.owns else None

    def _losses(self, projected: Projected, where: SequenceContext, shared: Chosen) -> dict[str, torch.Tensor]:
        """Distillation loss against the attention of this module, and figures of what was chosen."""
        if shared.index is None or self.options.distillation == "none":
            return {}
        with torch.no_grad():
            q_BTHE = self.absorbed(projected)
            e_BSE = torch.cat((projected.latent_BTC, projected.k_rope_BTR), dim=-1)
            starts_BT = document_starts(where, q_BTHE.shape[0], q_BTHE.shape[1], q_BTHE.device)
        target = Target(q_BTHE, e_BSE, self.softmax_scale, shared.chosen_BTK, starts_BT)
        chosen_BTK = self._choose(shared.index, where) if shared.chosen_BTK is None else shared.chosen_BTK
        found = attention_figures(target._replace(chosen_BTK=chosen_BTK))
        figures = dict(zip(FIGURES, (value / self.modules_of_model for value in found), strict=True))
        return {LOSS: distillation_loss(shared.index, target), **figures}

    def _step(self, x_1TD: torch.Tensor, where: SequenceContext, state: StepState) -> MixerOutput:
        layout = where.layout
        assert layout is not None  # noqa: S101  a step has one
        memory = _Memory(*map(_pages, state if isinstance(state, tuple) else (state,)))
        shared = self._choose_in_step(x_1TD, where, memory) if self.owns else where.shared

        def attend(place: int, projected: Projected, e_SE: torch.Tensor) -> torch.Tensor:
            q_1THE = self.absorbed(projected)
            return self.expand_values(self.attend_group(q_1THE, e_SE[None], shared.by_piece[place][None]))

        projected = self.project(x_1TD, where)
        o_1THV = attend_in_pages(self, projected, where, memory.latents, self.count, attend)
        return MixerOutput(self.o_proj(o_1THV.flatten(2)), shared=shared)

    def _choose_in_step(self, x_1TD: torch.Tensor, where: SequenceContext, memory: _Memory) -> Chosen:
        """Cache the keys of the indexer; choose for the pieces that have more positions than a token may choose."""
        layout, keys = where.layout, memory.keys
        assert layout is not None  # noqa: S101  a step has one
        assert keys is not None  # noqa: S101  of a module with an indexer
        if all(span.length <= self.count for span in layout.spans):
            keys.store(layout, self.indexer.keys(x_1TD, where.angles[self.rope_width])[0])
            index = None
        else:
            index = self.index(x_1TD, where)
            keys.store(layout, index.k_BTI[0])
        if memory.means is not None:
            store_means(keys, memory.means, layout, self.options.block)
        shared = Chosen()
        if index is not None:
            for place, span in enumerate(layout.spans):
                if span.length > self.count:
                    shared.by_piece[place] = self._choose_of_piece(index, place, span, where, memory)
        return shared

    def _choose_of_piece(
        self, index: Indexed, place: int, span: Span, where: SequenceContext, memory: _Memory
    ) -> torch.Tensor:
        layout = where.layout
        assert layout is not None  # noqa: S101  a step has one
        assert memory.keys is not None  # noqa: S101  of a module with an indexer
        keys_SI = memory.keys.read(layout, place)
        q_TJI, w_TJ = index.q_BTJI[0, span.first : span.end], index.w_BTJ[0, span.first : span.end]
        if span.start < self.count or span.tokens > PAGED_TOKENS:
            return index_topk(q_TJI[None], keys_SI[None], w_TJ[None], self.count, self.always)[0]
        found = []
        for token in range(span.tokens):
            length = span.start + token + 1
            own = q_TJI[token : token + 1], w_TJ[token : token + 1], keys_SI[:length]
            if memory.means is None or self.pages is None or not self.pages.takes(length):
                found.append(choose_all(*own, self.count, self.always))
                continue
            means_ZI = _means(memory.means, where, place, length, self.pages.block, keys_SI)
            found.append(choose_in_pages(*own, means_ZI, self.count, self.always, self.pages))
        return torch.cat(found)

    def state_kind(self) -> StateKind:
        latents = PerPosition(self.latent_width + self.rope_width)
        if not self.owns:
            return latents
        keys = PerPosition(self.options.index_head_dim)
        means = () if self.pages is None else (PerPosition(self.options.index_head_dim, self.pages.block),)
        return Several((latents, keys, *means))

    def state_values(self, length: int) -> int:
        held = super().state_values(length)
        if not self.owns:
            return held
        means = 0 if self.pages is None else length // self.pages.block
        return held + (length + means) * self.options.index_head_dim

    def flops(self, tokens: int, cached: int) -> int:
        attended = super().flops(tokens, cached)
        if not self.owns or cached + tokens <= self.count:
            return attended
        scored = tokens * (2 * cached + tokens + 1) // 2
        latents = 2 * tokens * self.q_a_proj.weight.numel()  # computed again for the indexer
        return attended + latents + 2 * scored * self.indexer.heads * (self.indexer.width + 1)


def owns_indexer(config: ModelConfig, slot: int, options: LSAOptions) -> bool:
    """Whether the attention module in this slot has an indexer; that of multi-token prediction has one."""
    if slot >= config.mtp_slot or slot % 2 == 0:
        return True
    pattern = None if config.sparse_index is None else config.sparse_index.index_topk_pattern
    return options.cli_factor == 1 if pattern is None else pattern[slot] == "C"


def _pages(state: Any) -> PageState:
    assert isinstance(state, PageState)  # noqa: S101  made for `state_kind`
    return state


def _means(
    means: PageState, where: SequenceContext, place: int, length: int, block: int, keys_SI: torch.Tensor
) -> torch.Tensor:
    """Means of the blocks of the first `length` positions of a piece; a draft's last block is formed from its keys."""
    layout = where.layout
    assert layout is not None  # noqa: S101  a step has one
    found_ZI = means.read_every(layout, place, block)[: -(-length // block)]
    if length == keys_SI.shape[0] and length == layout.spans[place].length:
        return found_ZI
    whole = length // block
    last = keys_SI[whole * block : length]
    return found_ZI[:whole] if not len(last) else torch.cat((found_ZI[:whole], last.mean(0, keepdim=True)))
