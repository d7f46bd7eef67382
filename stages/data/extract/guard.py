"""Page extraction in a child process, so that a page made to hang or crash a parser costs that page alone.

The parser is native code that no Python timer can interrupt and whose crash would end the worker. The child arms a
CPU timer before each page; when it runs out the kernel ends the child, and the next page gets a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import resource
import signal
import struct
import subprocess
import sys
from functools import cache
from typing import Any, BinaryIO, cast

import orjson

from longcat.pipeline.processes import safe_python
from longcat.stages.data.extract.html import Page, extract_page
from longcat.stages.data.extract.records import Rejected

SIZES = struct.Struct("<dIII")
REPLY = struct.Struct("<I")
MEMORY_BYTES = 4 << 30
BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from longcat.stages.data.extract.guard import serve; serve()"


class _Child:
    """A running child and the two pipes to it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*safe_python(), "-c", BOOTSTRAP, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._requests = cast("BinaryIO", self._process.stdin)
        self._replies = cast("BinaryIO", self._process.stdout)

    def ask(self, request: bytes, data: bytes) -> dict[str, Any]:
        self._requests.write(request)
        self._requests.write(data)
        self._requests.flush()
        (size,) = REPLY.unpack(_read(self._replies, REPLY.size))
        reply: dict[str, Any] = orjson.loads(_read(self._replies, size))
        return reply

    def end(self) -> int:
        """Its exit status, after making sure that it has one."""
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                pipe.close()
        return self._process.wait()


class PageGuard:
    """One child at a time, started when the first page comes."""

    def __init__(self) -> None:
        self._child: _Child | None = None

    def extract(self, data: bytes, charset: str | None, max_seconds: float, extractor: str = "longcat") -> Page:
        """What `extract_page` returns; a page that takes the extractor too long gets plain text with reason `time`.

        Raises:
            Rejected: `timeout` after `max_seconds` of processor time for plain text too, `crashed` if the child died
                otherwise or the parser raised.
        """
        try:
            return self._ask(data, charset, max_seconds, f"{extractor} ")
        except Rejected as rejected:
            if rejected.reason != "timeout" or extractor == "resiliparse":
                raise
        return self._ask(data, charset, max_seconds, f"{extractor} time")

    def _ask(self, data: bytes, charset: str | None, max_seconds: float, how: str) -> Page:
        child = self._child = self._child or _Child()
        name, way = (charset or "").encode("ascii", errors="ignore")[:64], how.encode()
        try:
            reply = child.ask(SIZES.pack(max_seconds, len(name), len(way), len(data)) + name + way, data)
        except (EOFError, OSError):
            self._child = None
            status = child.end()
            if status == -signal.SIGPROF:
                raise Rejected("timeout", f"more than {max_seconds:g} s of processor time") from None
            raise Rejected("crashed", f"the parser's process ended with status {status}") from None
        if "error" in reply:
            raise Rejected("crashed", reply["error"])
        return Page(**reply)

    def close(self) -> None:
        """End the child, which does so when its input ends."""
        child, self._child = self._child, None
        if child is not None:
            child.end()


@cache
def page_guard() -> PageGuard:
    """The guard of this process; its child serves all shards and ends with the process."""
    guard = PageGuard()
    atexit.register(guard.close)
    return guard


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def serve() -> None:
    """The child: pages in on stdin, what was extracted out on stdout, until stdin ends."""
    # Ctrl-C reaches the whole terminal group; the parent decides what it means and closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            seconds, name_bytes, way_bytes, data_bytes = SIZES.unpack(_read(sys.stdin.buffer, SIZES.size))
            charset = _read(sys.stdin.buffer, name_bytes).decode("ascii") or None
            extractor, _, fallback = _read(sys.stdin.buffer, way_bytes).decode("ascii").partition(" ")
            data = _read(sys.stdin.buffer, data_bytes)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                reply = orjson.dumps(extract_page(data, charset, extractor, fallback or None))
            except Exception as error:  # whatever the parser raises is this page's problem
                reply = orjson.dumps({"error": f"{type(error).__name__}: {error}"[:200]})
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.stdout.buffer.write(REPLY.pack(len(reply)) + reply)
            sys.stdout.buffer.flush()
