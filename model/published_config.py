"""The keys of published `config.json` files: their spellings, constants, and values that contradict each other.

    architectures                 model_type             what it is
    LongcatFlashForCausalLM       longcat_flash          Flash, Flash-Thinking
    LongcatFlashNgramForCausalLM  longcat_flash_ngram    Flash-Lite: n-gram embeddings
    LongcatCausalLM               none                   Lite-Sparse, LongCat-2.0: n-gram embeddings and indexers

Files of the second kind often lack the type too. The last kind spells n-gram keys `oe_*`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from longcat.model.attention.sparse_index import SparseIndex
from longcat.model.bounds import shown
from longcat.model.errors import ModelConfigError, first_problem
from longcat.model.rope_scaling import YARN_TYPES, RopeScaling

MODEL_TYPE, NGRAM_TYPE = "longcat_flash", "longcat_flash_ngram"
ARCHITECTURE, NGRAM_ARCHITECTURE, SPARSE_ARCHITECTURE = (
    "LongcatFlashForCausalLM",
    "LongcatFlashNgramForCausalLM",
    "LongcatCausalLM",
)
NGRAM_RATIO = "ngram_vocab_size_ratio"
SPARSE_SPELLING = {
    "oe_vocab_size_ratio": NGRAM_RATIO,
    "oe_neighbor_num": "emb_neighbor_num",
    "oe_split_num": "emb_split_num",
}
MAX_END_IDS = 64

# Keys that a published file must state; the others have a value shared by all published models.
_REQUIRED = (
    *("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "ffn_hidden_size", "expert_ffn_hidden_size"),
    *("n_routed_experts", "zero_expert_num", "moe_topk", "routed_scaling_factor", "q_lora_rank", "kv_lora_rank"),
    *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rope_theta", "max_position_embeddings", "rms_norm_eps"),
)

# Keys about files, software and sampling, which do not change what the model computes.
_IGNORED = frozenset(
    {"_name_or_path", "architectures", "model_type", "auto_map", "dtype", "torch_dtype", "transformers_version"}
    | {"output_router_logits", "use_cache", "disable_quant_module"}
)


class Widths(Protocol):
    """The sizes that other keys of a file repeat."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def qk_rope_head_dim(self) -> int: ...
    @property
    def qk_head_dim(self) -> int: ...


# Keys of other implementations, each with the only supported values.
_FIXED: dict[str, Callable[[Widths], tuple[Any, ...]]] = {
    "attention_bias": lambda _: (False,),
    "attention_dropout": lambda _: (0, 0.0),
    "hidden_act": lambda _: ("silu",),
    "router_bias": lambda _: (False,),
    "norm_topk_prob": lambda _: (False,),
    "rope_interleave": lambda _: (True,),
    "nextn_use_scmoe": lambda _: (False,),
    "head_dim": lambda config: (config.qk_rope_head_dim,),
    "qk_head_dim": lambda config: (config.qk_head_dim,),
    "num_key_value_heads": lambda config: (None, config.num_attention_heads),
    "num_hidden_layers": lambda config: (config.num_layers, 2 * config.num_layers),
}


def read_keys(
    published: Mapping[str, Any], known: Collection[str], source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a model configuration, of the names `known`, and the other keys of a published one.

    Raises:
        ModelConfigError: naming `source` and the key: another architecture, a missing key, or a contradiction.
    """
    stated = {key: value for key, value in published.items() if value is not None}
    _check_architecture(stated, source)
    _respell(stated, source)
    fields = {key: stated.pop(key) for key in list(stated) if key in known and key != "rope_scaling"}
    fields |= _rope_fields(stated, fields.get("rope_theta"), source)
    fields |= _sparse_field(stated, fields, source)
    fields |= _end_ids(fields, source)
    if "q_lora_rank" in published and published["q_lora_rank"] is None:
        # Without a query latent there is nothing to scale, whatever a file says.
        fields |= {"q_lora_rank": None, "mla_scale_q_lora": False}
    absent = [key for key in _REQUIRED if key not in fields]
    if absent:
        raise ModelConfigError(f"{source}: the key {absent[0]} is missing")
    return fields, stated


def check_other_keys(other: Mapping[str, Any], config: Widths, source: str) -> None:
    """Raise ModelConfigError for a key that is unknown, or that asks for another computation."""
    for key, value in other.items():
        if key in _IGNORED:
            continue
        if key not in _FIXED:
            raise ModelConfigError(
                f"{source}: unknown key {shown(key)[1:-1]} = {shown(value)}; it may change what the model computes"
            )
        allowed = _FIXED[key](config)
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            raise ModelConfigError(f"{source}: {key} = {shown(value)} is not supported, expected {allowed[-1]!r}")


def published_form(fields: Mapping[str, Any], sparse: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keys of a file from fields of a configuration, in the form of its architecture.

    `sparse`: those of the indexer, None without one.
    """
    written = dict(fields)
    further = written.pop("further_eos_token_ids", ())
    if further:
        written["eos_token_id"] = [written["eos_token_id"], *further]
    if sparse is None:
        kind = (NGRAM_ARCHITECTURE, NGRAM_TYPE) if NGRAM_RATIO in written else (ARCHITECTURE, MODEL_TYPE)
        return written | {"architectures": [kind[0]], "model_type": kind[1]}
    own = {name: key for key, name in SPARSE_SPELLING.items()}
    written = {own.get(key, key): value for key, value in written.items()}
    if written.get("rope_scaling"):
        written["rope_scaling"] = written["rope_scaling"] | {"rope_type": "deepseek_yarn"}
    return written | dict(sparse) | {"architectures": [SPARSE_ARCHITECTURE]}


def _check_architecture(stated: Mapping[str, Any], source: str) -> None:
    """Checked first, because for another architecture errors about missing or unknown keys would be misleading."""
    kinds = {
        "model_type": (MODEL_TYPE, NGRAM_TYPE),
        "architectures": ([ARCHITECTURE], [NGRAM_ARCHITECTURE], [SPARSE_ARCHITECTURE]),
    }
    for key, expected in kinds.items():
        if key in stated and stated[key] not in expected:
            raise ModelConfigError(f"{source}: {key} = {shown(stated[key])} is not supported, expected {expected[0]!r}")
    of_ngram = {"model_type": NGRAM_TYPE, "architectures": [NGRAM_ARCHITECTURE]}
    said = [key for key, kind in of_ngram.items() if stated.get(key) == kind]
    if said and not stated.keys() & {NGRAM_RATIO, "oe_vocab_size_ratio"}:
        raise ModelConfigError(f"{source}: {said[0]} = {stated[said[0]]!r} needs {NGRAM_RATIO}, which is missing")


def _respell(stated: dict[str, Any], source: str) -> None:
    """Give keys of the sparse models the names that Flash-Lite has for the same."""
    for key, name in SPARSE_SPELLING.items():
        if key in stated:
            value = stated.pop(key)
            if stated.setdefault(name, value) != value:
                raise ModelConfigError(
                    f"{source}: {key} = {shown(value)} contradicts {name} = {shown(stated[name])}, which is the same"
                )


def _sparse_field(other: dict[str, Any], fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Remove the keys of an indexer from `other`, and return the field of these."""
    if "sparse_index" in fields:  # a configuration of ours, not a file
        return {}
    keys = [key for key in other if key in SparseIndex.model_fields]
    method, asked = fields.get("attention_method"), other.get("use_longcat_dsa")
    if asked is False or not any(key.startswith("index") for key in keys):
        if method == "LSA" or asked is True:
            found = f"use_longcat_dsa = {asked}" if asked is False else "the key index_topk is missing"
            told = "attention_method = 'LSA'" if method == "LSA" else "use_longcat_dsa = True"
            raise ModelConfigError(f"{source}: {told} needs the keys of an indexer; {found}")
        for key in keys:  # settings of engines, which alone change nothing
            del other[key]
        return {}
    found_keys = {key: other.pop(key) for key in keys}
    try:
        return {"sparse_index": SparseIndex(**found_keys)}
    except ValidationError as error:
        raise ModelConfigError(f"{source}: {first_problem(error)}") from None


def _end_ids(fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A list of ids as the first one and the others."""
    ids = fields.get("eos_token_id")
    if not isinstance(ids, list):
        return {}
    if not 1 <= len(ids) <= MAX_END_IDS or len({one for one in ids if type(one) is int}) != len(ids):
        raise ModelConfigError(
            f"{source}: eos_token_id = {shown(ids)} is no token id and no list of 1 to {MAX_END_IDS} different ones"
        )
    return {"eos_token_id": ids[0], "further_eos_token_ids": tuple(ids[1:])}


def _rope_fields(other: dict[str, Any], theta: Any, source: str) -> dict[str, Any]:
    """Remove the rotary keys from `other`; in newer transformers they contain the base, else the separate `theta`."""
    fields: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        settings = other.pop(key, None)
        if settings is None:
            continue
        if not isinstance(settings, Mapping):
            raise ModelConfigError(f"{source}: {key} = {shown(settings)} is not supported, expected an object")
        stated = {name: value for name, value in settings.items() if value is not None}
        base = stated.pop("rope_theta", None)
        kind = stated.get("rope_type", stated.get("type"))
        if stated.get("type", kind) != kind:
            raise ModelConfigError(f"{source}: {key} = {shown(settings)}: type and rope_type contradict each other")
        if kind in YARN_TYPES:
            scaling = _yarn(stated, f"{source}: {key}")
            if fields.setdefault("rope_scaling", scaling) != scaling:
                raise ModelConfigError(f"{source}: rope_scaling contradicts rope_parameters")
        elif kind not in ("default", None) or stated.keys() - {"rope_type", "type"}:
            raise ModelConfigError(
                f"{source}: {key} = {shown(settings)} is not supported, only the plain rotary embedding and yarn are"
            )
        if base is None:
            continue
        if theta is not None and base != theta:
            raise ModelConfigError(
                f"{source}: rope_theta = {shown(theta)} contradicts {key}.rope_theta = {shown(base)}"
            )
        fields["rope_theta"] = theta = base
    return fields


def _yarn(stated: dict[str, Any], where: str) -> RopeScaling:
    # Other programs scale only the rotary parts where these are missing.
    for name in ("mscale", "mscale_all_dim"):
        if name not in stated:
            raise ModelConfigError(f"{where}: the key {name} is missing; only equal mscale and mscale_all_dim work")
    try:
        return RopeScaling(**stated)
    except ValidationError as error:
        raise ModelConfigError(f"{where}: {first_problem(error)}") from None
