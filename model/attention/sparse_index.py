"""Published configuration and tensors of LongCat Sparse Attention (LongCat-2.0, LongCat-Flash-Lite-Sparse; arXiv
2608.01662); `model.attention.lsa` computes it.

An attention slot that owns an indexer selects the `index_topk` positions that it and the following slots attend to.
A model with `attention: {kind: lsa, ...}` in all slots has these keys under their published names in config.json, and
under `attention` only the options that published files lack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longcat.model.bounds import MAX_CONTEXT, MAX_WIDTH, shown

COMPUTES, SHARES = "C", "S"
SPARSE = "lsa"  # the kind
# Keys of published files that are options of the kind.
_OPTIONS = (
    *("index_topk", "index_n_heads", "index_head_dim", "index_init_tokens", "index_local_tokens"),
    *("cli_factor", "indexer_rope_interleave"),
)
_DEFAULTS = {"index_topk": 2048, "index_head_dim": 128, "index_init_tokens": 16, "index_local_tokens": 1024}


class SparseIndex(BaseModel):
    """Keys of config.json, under their published names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    index_topk: int = Field(ge=1, le=MAX_CONTEXT, description="positions that a token attends to")
    index_n_heads: int = Field(ge=1, le=MAX_WIDTH, description="query heads of an indexer")
    index_head_dim: int = Field(ge=1, le=MAX_WIDTH, description="width of a head of an indexer")
    index_init_tokens: int = Field(default=0, ge=0, le=MAX_CONTEXT, description="first positions, always selected")
    index_local_tokens: int = Field(default=0, ge=0, le=MAX_CONTEXT, description="last positions, always selected")
    index_k_norm_type: Literal["rms"] = Field(default="rms", description="norm of the keys of an indexer")
    cli_factor: int = Field(default=2, ge=1, le=1 << 11, description="consecutive attention slots that share a choice")
    index_topk_pattern: tuple[Literal["C", "S"], ...] | None = Field(
        default=None, strict=False, description="C or S for every attention slot, whether it owns an indexer"
    )
    indexer_rope_interleave: bool = Field(default=True, description="whether rotary pairs of an indexer are neighbours")
    use_longcat_dsa: Literal[True] | None = Field(default=None, description="said by some files")
    dsa_mtp_cli: bool | None = Field(default=None, description="whether the steps of multi-token prediction share one")
    mtp_num_layers: int | None = Field(default=None, ge=1, le=64, description="steps of multi-token prediction")
    mtp_replicate_modules: Literal[True] | None = Field(default=None, description="whether the steps are one layer")
    mtp_disable_over_tokenizer: bool | None = Field(
        default=None, description="whether multi-token prediction leaves its n-gram tables unused"
    )
    moe_impl: str | None = Field(default=None, max_length=64, description="setting of an engine")
    moe_switch_token_num: int | None = Field(default=None, ge=0, description="setting of an engine")
    use_mla: Literal[True, 1] | None = Field(default=None, description="said by some files")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        always = self.index_init_tokens + self.index_local_tokens
        if always > self.index_topk:
            raise ValueError(f"index_init_tokens + index_local_tokens = {always} exceed index_topk = {self.index_topk}")
        if (self.mtp_num_layers or 1) > 1 and not self.mtp_replicate_modules:
            raise ValueError(f"mtp_num_layers = {self.mtp_num_layers} needs mtp_replicate_modules = True")
        return self

    def to_dict(self) -> dict[str, Any]:
        """The stated keys, as in config.json."""
        pattern = None if self.index_topk_pattern is None else list(self.index_topk_pattern)
        keys = self.model_dump() | {"index_topk_pattern": pattern}
        return {key: value for key, value in keys.items() if value is not None}

    def options(self) -> dict[str, Any]:
        """The keys that are options of the kind; a pattern takes the place of `cli_factor`."""
        found = self.model_dump(include=set(_OPTIONS))
        return found if self.index_topk_pattern is None else found | {"cli_factor": 2}

    def shares_within_layers(self, slots: int) -> bool:
        """Whether the first slot of every layer owns an indexer, so that no layer needs the choice of another."""
        return set(range(0, slots, 2)) <= set(self.owners(slots))

    def owners(self, slots: int) -> list[int]:
        """Attention slots with an indexer.

        Raises:
            ValueError: the pattern does not fit.
        """
        pattern = self.index_topk_pattern
        if pattern is None:
            return list(range(0, slots, self.cli_factor))
        if len(pattern) != slots or pattern[0] != COMPUTES:
            raise ValueError(
                f"index_topk_pattern has {len(pattern)} entries and begins with {pattern[0] if pattern else None!r}; "
                f"the model has {slots} attention slots, and the first must compute"
            )
        return [slot for slot, kind in enumerate(pattern) if kind == COMPUTES]

    def shapes(self, hidden_size: int, query_width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of the tensors of an indexer; `query_width`: that of the input of its queries."""
        yield "wq_b.weight", (self.index_n_heads * self.index_head_dim, query_width)
        yield "wk.weight", (self.index_head_dim, hidden_size)
        yield "k_norm.weight", (self.index_head_dim,)
        yield "weights_proj.weight", (self.index_n_heads, hidden_size)


def is_sparse(attention: Any) -> bool:
    """Whether `attention` of a configuration is LongCat Sparse Attention in every slot."""
    return attention == SPARSE or (isinstance(attention, Mapping) and attention.get("kind") == SPARSE)


def with_sparse_index(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of a model configuration with the published keys of `attention: {kind: lsa, ...}` in `sparse_index`.

    Raises:
        ValueError: there are keys of an indexer, and `attention` names another kind.
    """
    attention, known = values.get("attention"), values.get("sparse_index")
    if not is_sparse(attention):
        if attention is not None and known is not None:
            raise ValueError(
                f"attention = {shown(attention)} and index_topk exclude each other: a file with the keys of an "
                "indexer has LongCat Sparse Attention in every slot; remove sparse_index"
            )
        return values
    given = dict(attention) if isinstance(attention, Mapping) else {}
    stated = {key: given.pop(key) for key in list(given) if key in SparseIndex.model_fields}
    if known is None:
        heads = values.get("num_attention_heads")
        halved = {"index_n_heads": max(1, heads // 2)} if isinstance(heads, int) else {}
        known = _DEFAULTS | halved
    elif isinstance(known, SparseIndex):
        known = known.model_dump()
    else:
        known = dict(known)
    method = values.get("attention_method") if values.get("sparse_index") is not None else "LSA"
    changes = {"sparse_index": known | stated, "attention": given if given.keys() - {"kind"} else None}
    return {**values, **changes, **({} if method is None else {"attention_method": method})}
