"""The architecture of a model, under the keys of the published `config.json` of LongCat-Flash."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from longcat.model.attention.sparse_index import SPARSE, SparseIndex, is_sparse, with_sparse_index
from longcat.model.bounds import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, check_size, shown
from longcat.model.embeddings.ngram_tables import MAX_ORDER, MAX_SPLITS, NGRAM_KEYS, NGRAM_SIZES, NgramTables
from longcat.model.embeddings.ngram_tables import problem as ngram_problem
from longcat.model.errors import ModelConfigError, first_problem
from longcat.model.mixers import DEFAULT, MixerSpec, parse, spec_of_slot
from longcat.model.published_config import check_other_keys, published_form, read_keys
from longcat.model.rope_scaling import RopeScaling


class ModelConfig(BaseModel):
    """A LongCat-Flash architecture. Every field has the published name and, as default, the published value.

    A layer holds two attention modules, two dense feed-forward networks and one mixture of `n_routed_experts` experts
    and `zero_expert_num` experts that return their input. `eos_token_id` and the other ids are token ids below
    `vocab_size`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    vocab_size: int = Field(default=131072, ge=4, le=MAX_WIDTH, description="tokens in the vocabulary")
    hidden_size: int = Field(default=6144, ge=1, le=MAX_WIDTH, description="width of the residual stream")
    num_layers: int = Field(default=28, ge=1, le=MAX_LAYERS, description="layers, each with two attention modules")
    num_attention_heads: int = Field(default=64, ge=1, le=MAX_WIDTH, description="heads of every attention module")
    ffn_hidden_size: int = Field(
        default=12288, ge=1, le=MAX_WIDTH, description="inner width of the dense feed-forward networks"
    )
    expert_ffn_hidden_size: int = Field(default=2048, ge=1, le=MAX_WIDTH, description="inner width of an expert")
    n_routed_experts: int = Field(default=512, ge=1, le=MAX_EXPERTS, description="experts with a feed-forward network")
    zero_expert_num: int = Field(default=256, ge=0, le=MAX_EXPERTS, description="experts without computation")
    zero_expert_type: Literal["identity", "zero", "constant", "null"] = Field(
        default="identity",
        description="output of a zero-computation expert: its input, nothing, a learned blend of its input and a "
        "vector; null returns nothing and renormalises the weights over the FFN experts",
    )
    zero_expert_types: dict[Literal["zero", "constant", "identity"], int] | None = Field(
        default=None, description="with several kinds, the number of each; they sum to zero_expert_num"
    )
    moe_topk: int = Field(default=12, ge=1, description="experts selected per token, of both kinds")
    routed_scaling_factor: float = Field(default=6.0, gt=0, le=1e6, description="factor on every expert's weight")
    moe_layout: Literal["shortcut", "interleaved", "span", "post"] = Field(
        default="shortcut",
        description="whether the mixture runs beside two dense networks, or after the second attention in place of "
        "one; span and post: as shortcut, with SpanNorm or PostNorm",
    )
    span_scale: Literal["none", "L", "2L"] | None = Field(
        default=None,
        description="span and post: initial output projections are divided by the root of the number of attention and "
        "FFN pairs (L) or of twice that; null: L; not for other layouts",
    )
    gating_residual: bool = Field(
        default=False, description="whether a router also reads the logits of the previous router"
    )
    attention_method: Literal["MLA", "LSA"] = Field(default="MLA", description="attention kind in published files")
    sparse_index: SparseIndex | None = Field(
        default=None, description="LongCat Sparse Attention in every slot: the published keys of its indexers"
    )
    attention: str | dict[str, Any] | None = Field(
        default=None,
        description="attention kind if not only mla: a kind, an object of `kind` and its options, or of "
        "`pattern`, a list of these over the attention slots",
    )
    q_lora_rank: int | None = Field(
        default=1536, ge=1, le=MAX_WIDTH, description="width of the query latent; null: queries without one"
    )
    kv_lora_rank: int = Field(
        default=512, ge=1, le=MAX_WIDTH, description="width of the key-value latent, which is cached"
    )
    qk_nope_head_dim: int = Field(
        default=128, ge=1, le=MAX_WIDTH, description="non-rotary query and key width per head"
    )
    qk_rope_head_dim: int = Field(
        default=64, ge=2, le=MAX_WIDTH, multiple_of=2, description="rotary query and key width per head"
    )
    v_head_dim: int = Field(default=128, ge=1, le=MAX_WIDTH, description="value width per head")
    mla_scale_q_lora: bool = Field(
        default=True, description="scale the query latent by sqrt(hidden_size / q_lora_rank)"
    )
    mla_scale_kv_lora: bool = Field(
        default=True, description="scale the key-value latent by sqrt(hidden_size / kv_lora_rank)"
    )
    rope_theta: float = Field(default=10_000_000.0, gt=1, le=1e15, description="base of the rotary frequencies")
    rope_scaling: RopeScaling | None = Field(
        default=None, description="YaRN: other rotary frequencies for a longer context; none: those of the base"
    )
    max_position_embeddings: int = Field(
        default=131072, ge=1, le=MAX_CONTEXT, description="context length of the model in tokens"
    )
    rms_norm_eps: float = Field(
        default=1e-5, gt=0, le=1, description="epsilon of all norms except those of the latents"
    )
    initializer_range: float = Field(default=0.02, gt=0, le=1e3, description="standard deviation of initial weights")
    tie_word_embeddings: bool = Field(default=False, description="whether the output projection is the embedding table")
    ngram_vocab_size_ratio: float | None = Field(
        default=None, gt=0, le=1e6, description="rows of an n-gram table by vocab_size; none: no n-gram embeddings"
    )
    emb_neighbor_num: int = Field(
        default=4, ge=2, le=MAX_ORDER, description="longest n-gram in tokens (N), the token itself included"
    )
    emb_split_num: int = Field(default=4, ge=1, le=MAX_SPLITS, description="n-gram tables of each length (K)")
    ngram_word_scale: Literal["mean", "full"] = Field(
        default="mean",
        description="whether the token's own vector is a term of the mean over tables, or is added whole to the rest",
    )
    ngram_amplification: Literal["none", "sqrt_d", "norm"] = Field(
        default="none", description="embeddings with n-grams as they are, times sqrt(hidden_size), or normalised"
    )
    ngram_excluded_ids: tuple[int, ...] = Field(
        default=(),
        strict=False,
        description="token ids without n-grams, which also end the look-back of the tokens after them",
    )
    num_nextn_predict_layers: int = Field(
        default=0, ge=0, le=1, description="layers that predict the token after the next: 0 or 1"
    )
    mtp_share_embeddings: bool = Field(
        default=False, description="whether that layer shares the model's embedding table"
    )
    bos_token_id: int = Field(default=1, ge=0, description="id of the beginning of a text")
    eos_token_id: int = Field(default=2, ge=0, description="id of the end of a document")
    further_eos_token_ids: tuple[int, ...] = Field(
        default=(), strict=False, description="other ids that end a text, in the list of published files"
    )
    pad_token_id: int = Field(default=3, ge=0, description="id of padding")

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Self:
        if self.moe_topk > self.num_experts:
            raise ValueError(
                f"moe_topk = {self.moe_topk} exceeds n_routed_experts + zero_expert_num = {self.num_experts}"
            )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(f"{name} = {getattr(self, name)} is outside vocab_size = {self.vocab_size}")
        for token in self.further_eos_token_ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"eos_token_id: {token} is outside vocab_size = {self.vocab_size}")
        self._check_latent_and_index()
        if self.zero_expert_type != "identity" and not self.zero_expert_num:
            raise ValueError(f"zero_expert_type = {self.zero_expert_type!r} needs zero_expert_num of at least 1")
        if self.zero_expert_types is not None:
            self._check_zero_expert_types(self.zero_expert_types)
        if self.span_scale is not None and self.moe_layout not in _NORMED_SUMS:
            raise ValueError(
                f"span_scale = {self.span_scale!r} needs moe_layout = 'span' or 'post', this is {self.moe_layout!r}"
            )
        self._check_attention()
        if problem := ngram_problem(self):
            raise ValueError(problem)
        if self.mtp_share_embeddings and not self.num_nextn_predict_layers:
            raise ValueError("mtp_share_embeddings = True needs num_nextn_predict_layers = 1")
        check_size(self)
        return self

    @model_validator(mode="before")
    @classmethod
    def _published_keys_of_indexers(cls, values: Any) -> Any:
        return with_sparse_index(values) if isinstance(values, Mapping) else values

    @field_validator("attention")
    @classmethod
    def _known_kinds(cls, attention: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if attention is None:  # the published kind, whose module would import torch
            return None
        if is_sparse(attention):  # checked with its published keys
            return attention
        return None if all(spec.kind == DEFAULT for spec in parse(attention)) else attention

    def _check_latent_and_index(self) -> None:
        if self.q_lora_rank is None and self.mla_scale_q_lora:
            raise ValueError("mla_scale_q_lora = True needs q_lora_rank, the width of what it scales; this is null")
        if self.q_lora_rank is None and self.sparse_index is not None:
            raise ValueError("index_topk needs q_lora_rank: an indexer takes its queries from that latent")
        if self.sparse_index is not None:
            self.sparse_index.owners(2 * self.num_layers)
        elif self.attention_method == "LSA":
            raise ValueError("attention_method = 'LSA' needs the keys of an indexer; the key index_topk is missing")

    def _check_attention(self) -> None:
        if self.default_attention or self.unrunnable() is not None:
            return
        pattern = self.mixers
        for spec in pattern:
            try:
                spec.mixer.check(self, spec.options)
            except ValueError as error:
                raise ValueError(f"attention {spec.kind}: {error}") from None
        for slot in range(self.mtp_slot + 1 if self.num_nextn_predict_layers else self.mtp_slot):
            spec = self.mixer(slot)
            try:
                spec.mixer.check_slot(self, slot, spec.options)
            except ValueError as error:
                raise ValueError(f"attention {spec.kind}: {error}") from None
        losses = spec_of_slot(pattern, self.mtp_slot, self.num_layers).losses
        if self.num_nextn_predict_layers and losses:
            raise ValueError(
                f"attention {pattern[0].kind!r} has losses of its own ({', '.join(losses)}), which multi-token "
                "prediction does not train; give a pattern, under which that layer has 'mla'"
            )

    def _check_zero_expert_types(self, counts: Mapping[Any, int]) -> None:
        if self.zero_expert_type != "identity":
            raise ValueError(f"zero_expert_types and zero_expert_type = {self.zero_expert_type!r} exclude each other")
        if min(counts.values(), default=0) < 1 or sum(counts.values()) != self.zero_expert_num:
            raise ValueError(
                f"zero_expert_types = {dict(counts)} must be positive counts that sum to zero_expert_num = "
                f"{self.zero_expert_num}"
            )

    @property
    def zero_expert_counts(self) -> dict[str, int]:
        """Number of zero-computation experts of each kind, in the order of their indices."""
        counts: Mapping[Any, int] = self.zero_expert_types or {self.zero_expert_type: self.zero_expert_num}
        order = ("zero", "null", "constant", "identity")
        return {kind: counts[kind] for kind in order if counts.get(kind)}

    def unreadable_elsewhere(self) -> str | None:
        """Reason why other programs cannot run this model, naming the key; None if they can.

        They ignore these keys, and would load most of such models without an error and compute something else.
        """
        ours = {
            "attention": self.attention is not None and not is_sparse(self.attention),
            # Engines of the published models with indexers disagree on it.
            "ngram_word_scale": self.ngram_word_scale != "mean" and self.sparse_index is None,
            "ngram_amplification": self.ngram_amplification != "none",
            "ngram_excluded_ids": bool(self.ngram_excluded_ids),
            "zero_expert_type": self.zero_expert_type != "identity",
            "zero_expert_types": bool(self.zero_expert_counts.keys() - {"identity"}),
            "moe_layout": self.moe_layout != "shortcut",
            "gating_residual": self.gating_residual,
        }
        found = next((key for key, is_ours in ours.items() if is_ours), None)
        return None if found is None else f"{found} = {shown(getattr(self, found))} is not supported by other programs"

    def unrunnable(self) -> str | None:
        """Reason why this toolkit cannot run this model, naming the key; None if it can."""
        if self.sparse_index is None or self.sparse_index.shares_within_layers(2 * self.num_layers):
            return None
        sparse = self.sparse_index
        found = f"cli_factor = {sparse.cli_factor}" if sparse.index_topk_pattern is None else "index_topk_pattern"
        return (
            f"{found}: layers that attend to the positions of another layer cannot be run here; `longcat model "
            "describe`, `import` and `export` work"
        )

    @property
    def runnable_part(self) -> Self:
        """The model without what this toolkit keeps and cannot run."""
        changes = {"sparse_index": None, "attention": None}
        return self if self.unrunnable() is None else self.model_copy(update=changes)

    @property
    def default_attention(self) -> bool:
        """Whether every attention module is of the default kind; imports no kind."""
        return self.attention is None and self.sparse_index is None

    @property
    def mixers(self) -> tuple[MixerSpec, ...]:
        """Pattern of attention kinds, repeated over the slots."""
        if self.sparse_index is None:
            return parse(self.attention)
        further = self.attention if isinstance(self.attention, Mapping) else {}
        return parse({"kind": SPARSE, **self.sparse_index.options(), **further})

    def mixer(self, slot: int) -> MixerSpec:
        """Attention kind of slot `slot`: `2 * layer`, `2 * layer + 1`, or `mtp_slot`."""
        return spec_of_slot(self.mixers, slot, self.num_layers)

    @property
    def ngram_tables(self) -> NgramTables | None:
        """Sizes of the n-gram tables; None without n-gram embeddings."""
        if self.ngram_vocab_size_ratio is None:
            return None
        shape = self.vocab_size, self.hidden_size, self.emb_neighbor_num, self.emb_split_num
        return NgramTables(*shape, self.ngram_vocab_size_ratio)

    @property
    def ngram_parameters(self) -> int:
        """Parameters of n-gram tables and their projections."""
        return 0 if self.ngram_tables is None else self.ngram_tables.parameters

    @property
    def num_experts(self) -> int:
        """Number of experts of both kinds, the width of the router."""
        return self.n_routed_experts + self.zero_expert_num

    @property
    def mtp_slot(self) -> int:
        """Cache slot of the multi-token-prediction layer's attention, after the two of every layer."""
        return 2 * self.num_layers

    @property
    def qk_head_dim(self) -> int:
        """Query and key width per head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @classmethod
    def from_dict(cls, published: Mapping[str, Any], *, source: str = "config.json") -> Self:
        """Read a published configuration. Keys that do not change the computation are ignored.

        Raises:
            ModelConfigError: naming `source` and the key that is unknown, missing, of a wrong type or out of range, or
                that requests an unsupported computation.
        """
        fields, other = read_keys(published, cls.model_fields.keys(), source)
        try:
            config = cls(**fields)
        except ValidationError as error:
            raise ModelConfigError(f"{source}: {first_problem(error)}") from None
        check_other_keys(other, config, source)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The published configuration, readable by `from_dict`, transformers, vLLM and SGLang.

        Keys absent from the published file are written only if they are not at their default.
        """
        default = type(self).model_fields
        fields = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.model_dump().items()
            if key not in _OPTIONAL or value != default[key].default or (key in NGRAM_SIZES and self.ngram_tables)
        }
        constants = {
            "attention_bias": False,
            "attention_dropout": 0.0,
            # transformers derives the size of its rotary table from this key.
            "head_dim": self.qk_rope_head_dim,
            "hidden_act": "silu",
            "use_cache": True,
        }
        fields.pop("sparse_index", None)
        sparse = None if self.sparse_index is None else self.sparse_index.to_dict()
        return dict(sorted(published_form(constants | fields, sparse).items()))


# Keys of optional parts that the published config.json lacks, or of our extensions.
_OPTIONAL = frozenset(
    {"num_nextn_predict_layers", "mtp_share_embeddings", "zero_expert_types", "moe_layout", "gating_residual"}
    | {"attention", "rope_scaling", "span_scale", "sparse_index", "further_eos_token_ids"}
    | {"ngram_vocab_size_ratio", *NGRAM_KEYS}
)

# Layouts whose norms follow sums: their tensors have other names and their models no final norm.
_NORMED_SUMS = ("span", "post")
