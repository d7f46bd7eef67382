"""A buffered view of a source: lines, exact counts, skipping, and where in the file one stands."""

from __future__ import annotations

import re
from collections import deque

from longcat.stages.data.extract.streams import Source

NOT_NEWLINE = re.compile(rb"[^\r\n]")


class Window:
    """Reads ahead no more than one piece beyond what is asked for. Every method may raise Damage."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = bytearray()
        self.bytes_put_back = 0
        self._start = 0  # position of the buffer's first byte in the content
        self._pieces: deque[tuple[int, int]] = deque()  # (position in the content, offset in the file)

    @property
    def offset(self) -> int:
        """Offset in the file of what comes next; in a compressed file, of the member it lies in."""
        while len(self._pieces) > 1 and self._pieces[1][0] <= self._start:
            self._pieces.popleft()
        if not self._pieces:
            return self._source.offset
        position, offset = self._pieces[0]
        return offset + (self._start - position if self._source.exact else 0)

    @property
    def position(self) -> int:
        """Bytes of content taken so far."""
        return self._start

    def recover(self) -> bool:
        """After Damage: forget what was read of the damaged member and go to the next; False where there is none."""
        self._start += len(self._buffer)
        self._buffer.clear()
        self._pieces.clear()
        return self._source.recover()

    def _more(self) -> bool:
        piece = self._source.read()
        if piece:
            self._pieces.append((self._start + len(self._buffer), self._source.offset))
            self._buffer += piece
        return bool(piece)

    def at_end(self) -> bool:
        return not self._buffer and not self._more()

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end, without taking them."""
        while len(self._buffer) < count and self._more():
            pass
        with memoryview(self._buffer) as view:
            return bytes(view[:count])

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end."""
        taken = self.peek(count)
        self._drop(len(taken))
        return taken

    def put_back(self, content: bytes) -> None:
        """Undo the taking of the last `content`; `offset` must not have been asked for since."""
        self._buffer[:0] = content
        self._start -= len(content)
        self.bytes_put_back += len(content)

    def skip(self, count: int) -> int:
        """Pass over `count` bytes without holding them; returns how many there were."""
        left = count
        while left and (self._buffer or self._more()):
            step = min(left, len(self._buffer))
            self._drop(step)
            left -= step
        return count - left

    def skip_newlines(self) -> None:
        """Pass over all CR and LF that come next."""
        while self._buffer or self._more():
            other = NOT_NEWLINE.search(self._buffer)
            self._drop(other.start() if other else len(self._buffer))
            if other:
                return

    def skip_to(self, pattern: re.Pattern[bytes], reach: int) -> bool:
        """Stand before the next match of `pattern`, which is at most `reach` bytes long; False where there is none."""
        while True:
            match = pattern.search(self._buffer)
            if match:
                start = match.start()
                del match  # it holds the buffer, which could not shrink
                self._drop(start)
                return True
            self._drop(max(0, len(self._buffer) - reach))
            if not self._more():
                self._drop(len(self._buffer))
                return False

    def take_through(self, ending: bytes, limit: int) -> bytes | None:
        """Everything through the next `ending` (or to the end); None where that is more than `limit` bytes.

        Then nothing was taken.
        """
        searched = 0
        while True:
            index = self._buffer.find(ending, searched)
            end = index + len(ending) if index >= 0 else len(self._buffer)
            if end > limit:
                return None
            if index >= 0:
                return self.take(end)
            searched = max(0, len(self._buffer) - len(ending) + 1)
            if not self._more():
                return self.take(len(self._buffer))

    def skip_line(self) -> None:
        """Pass over everything through the next newline."""
        while self._buffer or self._more():
            index = self._buffer.find(b"\n")
            self._drop(index + 1 if index >= 0 else len(self._buffer))
            if index >= 0:
                return

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._start += count
