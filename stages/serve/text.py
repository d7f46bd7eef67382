"""Text as it grows, token by token: never half a UTF-8 sequence, never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

TokenBytes = Callable[[int], bytes]


class TextStream:
    """Turns tokens into text that may be shown at once.

    Bytes that end inside a UTF-8 sequence wait for the rest. Text that may be the start of a stop string waits until
    it is clear; once a stop string is complete, `stopped` is true and nothing from its first character on is shown.
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
        """Characters decoded so far, shown or held back."""
        return self.shown + len(self._held)

    def push(self, token_id: int) -> str:
        """Take one token; the text that may now be shown, possibly empty."""
        self._held += self._decoder.decode(self._token_bytes(token_id))
        found = [position for text in self._stop if (position := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            return self._show(min(found))
        return self._show(len(self._held) - self._doubtful())

    def finish(self) -> str:
        """The end of the tokens: what was held back, an unfinished UTF-8 sequence as U+FFFD."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._show(len(self._held))

    def _doubtful(self) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
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
