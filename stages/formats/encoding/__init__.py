"""Ids of many texts at once: by gigatoken where it gives those of the tokenizers library, by that library otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from longcat.pipeline.environment import package_version
from longcat.pipeline.errors import InputError
from longcat.stages.formats.encoding.probe import PROBES, paired
from longcat.stages.formats.encoding.segments import Pieces, cut
from longcat.stages.formats.encoding.support import UnsupportedError, supported
from longcat.stages.formats.tokenizer import Tokenizer, load_tokenizer, read_state
from longcat.stages.formats.tokenizer_backend import load_backend

if TYPE_CHECKING:
    from longcat.stages.formats.encoding.giga import Giga

Choice = Literal["auto", "gigatoken", "tokenizers"]


class Encoded(NamedTuple):
    """Ids of texts one after the other, uint32 [n ids], how many each text has, int64 [n texts], and bytes of UTF-8."""

    ids: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.int64]
    n_bytes: int

    def rows(self) -> list[npt.NDArray[np.uint32]]:
        """Ids of every text, as views."""
        ends = np.cumsum(self.lengths).tolist()
        return [self.ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class Encoder:
    """Encoder of plain text with the ids of `tokenizer`; nothing is added, special tokens in a text are text."""

    def __init__(self, tokenizer: Tokenizer, giga: Giga | None, reason: str | None) -> None:
        """`reason` says why there is no `giga`."""
        self.tokenizer = tokenizer
        self.reason = reason
        self._giga = giga

    @property
    def library(self) -> str:
        """Name of the library that encodes."""
        return "tokenizers" if self._giga is None else "gigatoken"

    def describe(self) -> dict[str, str]:
        """Library and version, and why it is not gigatoken."""
        found = {"library": f"{self.library} {package_version(self.library)}"}
        return found if self.reason is None else {**found, "reason": self.reason}

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of texts; the same with either library.

        Raises:
            InputError: a text contains a lone surrogate.
        """
        if self._giga is None:
            return self.reference(texts)
        try:
            pieces = cut([text.encode() for text in texts], groups=self._giga.groups)
        except UnicodeEncodeError:
            raise InputError("a text contains a lone surrogate, which is not a character") from None
        counts, ids = self._ids(self._giga, pieces)
        before = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=before[1:])
        return Encoded(ids, np.diff(before[pieces.firsts]), len(pieces.data))

    def reference(self, texts: Sequence[str]) -> Encoded:
        """Ids of texts by the tokenizers library."""
        found = self.tokenizer.encode_batch(texts)
        lengths = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
        ids = np.fromiter(chain.from_iterable(found), dtype=np.uint32, count=int(lengths.sum()))
        return Encoded(ids, lengths, sum(len(text.encode()) for text in texts))

    def _ids(self, giga: Giga, pieces: Pieces) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
        """Number of ids of every piece, and the ids."""
        starts, stops, hard = pieces.bounds[:-1], pieces.bounds[1:], pieces.hard
        if not hard.any():
            return giga.encode(pieces.data, starts, stops)
        counts = np.empty(len(hard), dtype=np.int64)
        counts[~hard], easy_ids = giga.encode(pieces.data, starts[~hard], stops[~hard])
        slices = zip(starts[hard].tolist(), stops[hard].tolist(), strict=True)
        hard_ids, counts[hard], _ = self.reference([pieces.data[at:end].tobytes().decode() for at, end in slices])
        is_hard = np.repeat(hard, counts)
        ids = np.empty(len(is_hard), dtype=np.uint32)
        ids[is_hard], ids[~is_hard] = hard_ids, easy_ids
        return counts, ids


def open_encoder(folder: Path, choice: Choice = "auto") -> Encoder:
    """Encoder for the tokenizer in `folder`; `auto` uses gigatoken if it is installed and supports the tokenizer.

    Raises:
        InputError: the tokenizer cannot be read, or gigatoken is chosen and does not support it.
    """
    state = read_state(folder)
    tokenizer = load_tokenizer(folder, state)
    if choice == "tokenizers":
        return Encoder(tokenizer, None, "chosen")
    try:
        return Encoder(tokenizer, _giga(state, tokenizer), None)
    except UnsupportedError as error:
        if choice == "gigatoken":
            hint = "leave the choice of the encoder to `auto`"
            raise InputError(f"gigatoken cannot encode: {error}", where=str(folder), hint=hint) from None
        return Encoder(tokenizer, None, str(error))


def _giga(state: dict[str, Any], tokenizer: Tokenizer) -> Giga:
    text, groups = supported(state)
    try:
        from longcat.stages.formats.encoding.giga import Giga
    except ImportError as error:
        raise UnsupportedError(f"{error.name} is not installed") from None
    pairs = paired(state, PROBES)
    _probe(Encoder(Tokenizer(load_backend(pairs), {}, (), {}), Giga(supported(pairs)[0], groups), None))
    giga = Giga(text, groups)
    _probe(Encoder(tokenizer, giga, None))
    return giga


def _probe(encoder: Encoder) -> None:
    """Compare the ids of short texts with every kind of character and of boundary between pieces.

    Raises:
        UnsupportedError: they differ from those of the tokenizers library.
    """
    found, expected = encoder.encode(PROBES).rows(), encoder.reference(PROBES).rows()
    for text, ids, wanted in zip(PROBES, found, expected, strict=True):
        if not np.array_equal(ids, wanted):
            raise UnsupportedError(f"it gives {text!r} ids other than tokenizers does")
