"""Registry of attention kinds, and their assignment to the attention slots of a model.

`attention` in the configuration is a kind (`window`), a kind with options (`{kind: window, size: 512}`) or a pattern
over the attention slots (`{pattern: [window, mla]}`: slot i has the kind at index i modulo the pattern's length; slots
2l and 2l + 1 belong to layer l). Multi-token prediction uses the kind of the model, or `mla` with a pattern.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from longcat.model.attention.options import MixerOptions
from longcat.model.errors import first_problem

DEFAULT = "mla"
# Imported on first use: `module:class`.
KINDS: dict[str, str] = {
    DEFAULT: "longcat.model.attention.mla:MultiHeadLatentAttention",
    "delta": "longcat.model.attention.delta:GatedDelta",
    "lsa": "longcat.model.attention.lsa:LongcatSparseAttention",
    "topk": "longcat.model.attention.topk:TopKAttention",
    "nsa": "longcat.model.attention.nsa:NativeSparseAttention",
    "window": "longcat.model.attention.window:WindowAttention",
}
MAX_PATTERN = 64

_KEY = re.compile(r"model\.(?:layers\.(\d+)\.self_attn\.([01])|mtp\.layers\.\d+\.self_attn)\.(.+)")


class MixerSpec(NamedTuple):
    """A kind of attention and its options."""

    kind: str
    options: MixerOptions

    @property
    def mixer(self) -> type[Any]:
        """The class, a `model.attention.base.SequenceMixer`."""
        return mixer_class(self.kind)

    @property
    def losses(self) -> tuple[str, ...]:
        """Auxiliary losses of the kind with these options."""
        found: tuple[str, ...] = self.mixer.losses_of(self.options)
        return found


def mixer_class(kind: str) -> type[Any]:
    """The class of a kind, a `model.attention.base.SequenceMixer`.

    Raises:
        ValueError: the kind is unknown; the message lists the known ones.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}, choose one of {', '.join(sorted(KINDS))}")
    module, _, name = KINDS[kind].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def parse(attention: str | Mapping[str, Any] | None) -> tuple[MixerSpec, ...]:
    """Pattern given by `attention` of a configuration; a single kind is a pattern of length one.

    Raises:
        ValueError: a kind or option is unknown or has a wrong value, or the pattern is empty or nested.
    """
    if isinstance(attention, Mapping) and "pattern" in attention:
        pattern = attention["pattern"]
        if len(attention) > 1 or not isinstance(pattern, list | tuple) or not 1 <= len(pattern) <= MAX_PATTERN:
            raise ValueError(f"a pattern is a list of 1 to {MAX_PATTERN} kinds without other keys")
        return tuple(_parse_one(entry) for entry in pattern)
    return (_parse_one(attention),)


def _parse_one(entry: Any) -> MixerSpec:
    if entry is None or isinstance(entry, str):
        entry = {"kind": entry or DEFAULT}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
        raise ValueError("an entry is the name of a kind, or an object with a key 'kind' and the kind's options")
    kind = entry["kind"]
    try:
        options = mixer_class(kind).Options(**{key: value for key, value in entry.items() if key != "kind"})
    except ValidationError as error:
        raise ValueError(f"{kind}: {first_problem(error)}") from None
    return MixerSpec(kind, options)


def spec_of_slot(pattern: tuple[MixerSpec, ...], slot: int, num_layers: int) -> MixerSpec:
    """Attention kind of slot `slot`, of `2 * num_layers` followed by those of multi-token prediction."""
    if slot < 2 * num_layers:
        return pattern[slot % len(pattern)]
    return pattern[0] if len(pattern) == 1 else _parse_one(DEFAULT)


def shortest_pattern(kinds: Sequence[MixerSpec]) -> dict[str, Any] | None:
    """`attention` of a model whose slots have these kinds; None if its pattern would be too long.

    At least two kinds, because a single one would also be that of multi-token prediction.
    """
    for length in range(2, min(len(kinds), MAX_PATTERN) + 1):
        if all(kind == kinds[slot % length] for slot, kind in enumerate(kinds)):
            return {"pattern": [{"kind": kind, **options.model_dump()} for kind, options in kinds[:length]]}
    return None


def slot_of_key(key: str, num_layers: int) -> tuple[int, str] | None:
    """(slot, name inside the module) of a parameter of an attention module; None for other parameters."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    slot = 2 * num_layers if match[1] is None else 2 * int(match[1]) + int(match[2])
    return slot, match[3]
