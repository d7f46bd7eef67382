"""The gigatoken library: ids of slices of bytes, with a bound on its cache."""

from __future__ import annotations

import awkward
import gigatoken
import numpy as np
import numpy.typing as npt
import psutil

from longcat.pipeline.errors import InputError
from longcat.stages.formats.encoding.support import UnsupportedError
from longcat.stages.formats.tokenizer_backend import muted, one_line, panics_told

# The library keeps the ids of every word it ever saw: about 11 bytes for a byte of words that do not repeat.
MAX_GROWTH = 512 << 20
# Loading a vocabulary of 131072 takes as long as encoding 60 MB.
MIN_BYTES = 64 << 20


class Giga:
    """A tokenizer that is loaded again when the process has grown by `MAX_GROWTH` and `MIN_BYTES` were encoded."""

    def __init__(self, state: bytes, groups: bool) -> None:
        """`state` is a tokenizer.json; `groups` says whether texts must be cut at groups of Han and kana.

        Raises:
            UnsupportedError: gigatoken does not take it.
        """
        self.groups = groups
        self._state = state
        self._load()

    def encode(
        self, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
        """Number of ids of every slice `data[start:stop]`, and the ids one after the other."""
        if self._encoded >= MIN_BYTES and _resident() > self._resident + MAX_GROWTH:
            self._load()
        self._encoded += int((stops - starts).sum())
        index = awkward.index.Index64
        content = awkward.contents.NumpyArray(data)
        slices = awkward.Array(awkward.contents.ListArray(index(starts), index(stops), content))
        try:
            with panics_told():
                # One thread: the workers are the parallelism, and its thread pool does not survive a fork.
                found = self._tokenizer.encode_batch(slices, parallel=False)
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"gigatoken fails on a text: {one_line(error)}") from None
        return awkward.to_numpy(awkward.num(found)), awkward.to_numpy(awkward.flatten(found))

    def _load(self) -> None:
        try:
            with muted(), panics_told():
                self._tokenizer = gigatoken.Tokenizer.from_json(self._state)
        except Exception as error:  # the library raises plain Exception
            raise UnsupportedError(one_line(error)) from None
        self._resident, self._encoded = _resident(), 0


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
