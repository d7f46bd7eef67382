"""Buffered view of a source: lines, exact counts, skipping, and file offsets."""

from __future__ import annotations

import re
from collections import deque

from longcat.stages.data.extract.parts import Start
from longcat.stages.data.extract.streams import Damage, Source

NOT_NEWLINE = re.compile(rb"[^\r\n]")


class SourceBuffer:
    """Reads ahead at most one chunk. Every method may raise Damage."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = bytearray()
        self.bytes_put_back = 0
        self._start = 0  # position of the buffer's first byte in the content
        # (position in the content, offset in the file, position of the member's first byte)
        self._pieces: deque[tuple[int, int, int]] = deque()

    @property
    def offset(self) -> int:
        """File offset of the next byte; in a compressed file, of its member."""
        return self.place.offset

    @property
    def place(self) -> Start:
        """`offset`, and in a compressed file the number of bytes of the member before the next byte."""
        while len(self._pieces) > 1 and self._pieces[1][0] <= self._start:
            self._pieces.popleft()
        if not self._pieces:
            return Start(self._source.offset)
        position, offset, member = self._pieces[0]
        if self._source.exact:
            return Start(offset + self._start - position)
        return Start(offset, self._start - member)

    def place_of(self, damage: Damage) -> Start:
        """Where the next byte would be, were it not damaged: in the member read so far, or at the start of another."""
        return self.place if self.place.offset == damage.offset else Start(damage.offset)

    @property
    def position(self) -> int:
        """Bytes of content consumed so far."""
        return self._start

    def recover(self) -> bool:
        """After Damage: discard the damaged member and go to the next; False if there is none."""
        self._start += len(self._buffer)
        self._buffer.clear()
        self._pieces.clear()
        return self._source.recover()

    def _more(self) -> bool:
        piece = self._source.read()
        if piece:
            position, offset = self._start + len(self._buffer), self._source.offset
            same_member = bool(self._pieces) and self._pieces[-1][1] == offset
            self._pieces.append((position, offset, self._pieces[-1][2] if same_member else position))
            self._buffer += piece
        return bool(piece)

    def at_end(self) -> bool:
        return not self._buffer and not self._more()

    def peek(self, count: int) -> bytes:
        """Peek at the next `count` bytes, fewer only at the end."""
        while len(self._buffer) < count and self._more():
            pass
        with memoryview(self._buffer) as view:
            return bytes(view[:count])

    def take(self, count: int) -> bytes:
        """Read the next `count` bytes, fewer only at the end."""
        taken = self.peek(count)
        self._drop(len(taken))
        return taken

    def put_back(self, content: bytes) -> None:
        """Push back the last `content`; `offset` must not have been read since."""
        self._buffer[:0] = content
        self._start -= len(content)
        self.bytes_put_back += len(content)

    def skip(self, count: int) -> int:
        """Skip `count` bytes without storing them; returns the number skipped."""
        left = count
        while left and (self._buffer or self._more()):
            step = min(left, len(self._buffer))
            self._drop(step)
            left -= step
        return count - left

    def skip_newlines(self) -> None:
        """Skip following CR and LF."""
        while self._buffer or self._more():
            other = NOT_NEWLINE.search(self._buffer)
            self._drop(other.start() if other else len(self._buffer))
            if other:
                return

    def begin_member(self, position: int, end: int | None) -> bool:
        """Begin at the first readable member from a file offset on and before `end`; False if there is none."""
        return self._source.begin_member(position, end)

    @property
    def is_plain(self) -> bool:
        """Whether the file is not compressed."""
        return self._source.exact

    def skip_to(self, pattern: re.Pattern[bytes], reach: int, limit: int | None = None) -> bool:
        """Skip to the next match of `pattern`, at most `reach` bytes long; False if there is none.

        With `limit`, also False if more bytes were skipped.
        """
        first = self._start
        while True:
            match = pattern.search(self._buffer)
            if match:
                start = match.start()
                del match  # it references the buffer, which could not shrink
                self._drop(start)
                return True
            self._drop(max(0, len(self._buffer) - reach))
            if limit is not None and self._start - first > limit:
                return False
            if not self._more():
                self._drop(len(self._buffer))
                return False

    def take_through(self, ending: bytes, limit: int) -> bytes | None:
        """Read through the next `ending` (or to the end); None if longer than `limit` bytes.

        Then nothing is consumed.
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

    def take_to_match(self, pattern: re.Pattern[bytes], reach: int, limit: int) -> bytes | None:
        """Read through the next match of `pattern`, at most `reach` bytes long (or to the end); None if over `limit`.

        Then nothing is consumed.
        """
        searched = 0
        while True:
            match = pattern.search(self._buffer, searched)
            end = match.end() if match else len(self._buffer)
            found = match is not None
            del match  # it references the buffer, which could not shrink
            if end > limit:
                return None
            if found:
                return self.take(end)
            searched = max(0, len(self._buffer) - reach)
            if not self._more():
                return self.take(len(self._buffer))

    def skip_line(self) -> None:
        """Skip through the next newline."""
        while self._buffer or self._more():
            index = self._buffer.find(b"\n")
            self._drop(index + 1 if index >= 0 else len(self._buffer))
            if index >= 0:
                return

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._start += count
