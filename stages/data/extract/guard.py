"""Page extraction in a child process, so that a page that hangs or crashes the parser affects only itself.

The parser is native code that no Python timer can interrupt and whose crash would end the worker. The child arms a
CPU timer before each page; when it expires the kernel kills the child, and the next page gets a new one. A child killed
by something else, such as the OOM killer, says nothing about the page.
"""

from __future__ import annotations

import atexit
import contextlib
import resource
import signal
import struct
import subprocess
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import orjson

from longcat.pipeline.errors import MachineError
from longcat.pipeline.faults import GO_ON, RETRY_SECONDS, ending, is_crash, is_fault, machine_error, twice
from longcat.pipeline.processes import end_with_parent, safe_python
from longcat.stages.data.extract.html import Page, extract_page
from longcat.stages.data.extract.pdf import extract_pdf
from longcat.stages.data.extract.records import Rejected

if TYPE_CHECKING:
    from longcat.stages.data.extract.config import Comments

SIZES = struct.Struct("<dIII")
REPLY = struct.Struct("<I")
MEMORY_BYTES = 4 << 30
TRIES = 2
PARSER = "the process that parses pages"
BOOTSTRAP = "import sys; sys.path[:] = sys.argv[1:]; from longcat.stages.data.extract.guard import serve; serve()"


class _Child:
    """A running child and the two pipes to it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*safe_python(), "-c", BOOTSTRAP, *filter(None, sys.path)],
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
        """Exit status, after waiting for the exit."""
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                pipe.close()
        return self._process.wait()


class _Ended(Exception):  # noqa: N818 - passed between the methods of the guard
    """The child exited while processing a page."""

    def __init__(self, status: int, fresh: bool) -> None:
        super().__init__(status)
        self.status = status
        self.fresh = fresh


class PageGuard:
    """One child at a time, started for the first page."""

    def __init__(self) -> None:
        self._child: _Child | None = None
        self._fresh = True

    def extract(
        self,
        data: bytes,
        charset: str | None,
        max_seconds: float,
        extractor: str = "longcat",
        comments: Comments = "auto",
    ) -> Page:
        """Result of `extract_page`, or of `extract_pdf` with the extractor `pdf`.

        A page that exceeds the time limit gets plain text with reason `time`.

        Raises:
            Rejected: `timeout` after `max_seconds` of CPU time for plain text too, `crashed` if the page made
                two fresh children crash or the parser raised, and the reasons of `decode`.
            MachineError: two children exited for reasons unrelated to the page.
        """
        try:
            return self._ask(data, charset, max_seconds, f"{extractor} {comments} ")
        except Rejected as rejected:
            if rejected.reason != "timeout" or extractor in ("resiliparse", "pdf"):
                raise
        return self._ask(data, charset, max_seconds, f"{extractor} {comments} time")

    def _ask(self, data: bytes, charset: str | None, max_seconds: float, how: str) -> Page:
        name, way = (charset or "").encode("ascii", errors="ignore")[:64], how.encode()
        request = SIZES.pack(max_seconds, len(name), len(way), len(data)) + name + way
        crashes = faults = 0
        while True:
            try:
                return self._ask_once(request, data, max_seconds)
            except _Ended as ended:
                if is_crash(ended.status):
                    # Earlier pages may have corrupted the child, so only a new child is conclusive.
                    crashes += ended.fresh
                    if crashes == TRIES:
                        raise Rejected("crashed", f"the parser's process: {ending(ended.status)}") from None
                    continue
                faults += 1
                if faults == TRIES:
                    raise _fault(ending(ended.status)) from None
                time.sleep(RETRY_SECONDS)

    def _ask_once(self, request: bytes, data: bytes, max_seconds: float) -> Page:
        child = self._child = self._child or _started()
        fresh, self._fresh = self._fresh, False
        try:
            reply = child.ask(request, data)
        except (EOFError, OSError):
            self._child, self._fresh = None, True
            status = child.end()
            if status == -signal.SIGPROF:
                raise Rejected("timeout", f"more than {max_seconds:g} s of CPU time") from None
            raise _Ended(status, fresh) from None
        if reply.get("fault"):
            raise _fault(reply["fault"])
        if "rejected" in reply:
            raise Rejected(*reply["rejected"])
        if "error" in reply:
            raise Rejected("crashed", reply["error"])
        return Page(**reply)

    def close(self) -> None:
        """End the child by closing its input."""
        child, self._child, self._fresh = self._child, None, True
        if child is not None:
            child.end()


@cache
def page_guard() -> PageGuard:
    """Guard of this process; its child serves all shards and exits with the process."""
    guard = PageGuard()
    atexit.register(guard.close)
    return guard


def _started() -> _Child:
    """A new child; retried, since a lack of processes or memory may be temporary."""
    try:
        return twice(_Child)
    except OSError as error:
        raise machine_error(error, PARSER) from None


def _fault(what: str) -> MachineError:
    return MachineError(f"exited twice without a fault of the page: {what}", where=PARSER, hint=GO_ON)


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def serve() -> None:
    """Child loop: pages from stdin, results to stdout, until stdin ends."""
    # Ctrl-C is sent to the whole terminal group; the parent handles it and closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            seconds, name_bytes, way_bytes, data_bytes = SIZES.unpack(_read(sys.stdin.buffer, SIZES.size))
            charset = _read(sys.stdin.buffer, name_bytes).decode("ascii") or None
            extractor, comments, fallback = _read(sys.stdin.buffer, way_bytes).decode("ascii").split(" ")
            data = _read(sys.stdin.buffer, data_bytes)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            reply = _reply(data, charset, extractor, fallback or None, cast("Comments", comments))
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.stdout.buffer.write(REPLY.pack(len(reply)) + reply)
            sys.stdout.buffer.flush()


def _reply(data: bytes, charset: str | None, extractor: str, fallback: str | None, comments: Comments) -> bytes:
    try:
        made = extract_pdf(data) if extractor == "pdf" else extract_page(data, charset, extractor, fallback, comments)
        return orjson.dumps(made)
    except Rejected as rejected:
        return orjson.dumps({"rejected": [rejected.reason, rejected.detail]})
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:200]
        # This process has its own memory limit; other resource shortages are not caused by the page.
        own_limit = isinstance(error, MemoryError) and resource.getrlimit(resource.RLIMIT_AS)[0] == MEMORY_BYTES
        return orjson.dumps({"error": what} if own_limit or not is_fault(error) else {"fault": what})
