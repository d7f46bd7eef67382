"""Incremental detokenization: never emits partial UTF-8 sequences or parts of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

TokenBytes = Callable[[int], bytes]


class TextStream:
    """Converts tokens to text that can be emitted.

    Incomplete UTF-8 sequences are held back. Text that may start a stop string is held back until decided; once a stop
    string is complete, `stopped` is true and nothing from its first character on is emitted.
    """

    def __init__(self, token_bytes: TokenBytes, stop: Sequence[str] = ()) -> None:
        self._token_bytes = token_bytes
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.shown = 0
        self.stopped = False

    @property
    def decoded(self) -> int:
        """Number of characters decoded so far, emitted or held back."""
        return self.shown + len(self._held)

    def push(self, token_id: int) -> str:
        """Add one token; returns the text that can be emitted, possibly empty."""
        self._held += self._decoder.decode(self._token_bytes(token_id))
        found = [position for text in self._stop if (position := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            return self._show(min(found))
        return self._show(len(self._held) - self._doubtful())

    def finish(self) -> str:
        """Finish: returns the held-back text, with an incomplete UTF-8 sequence as U+FFFD."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._show(len(self._held))

    def _doubtful(self) -> int:
        """Length of the longest suffix of the held text that is a prefix of a stop string."""
        longest = max((len(text) for text in self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(text.startswith(end) for text in self._stop):
                return length
        return 0

    def _show(self, length: int) -> str:
        text, self._held = self._held[:length], "" if self.stopped else self._held[length:]
        self.shown += len(text)
        return text
