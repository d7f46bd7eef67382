"""Render a candidate: a module in a child process, a description or a document from its file."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import IO

from longcat.pipeline.errors import InputError, MachineError
from longcat.pipeline.faults import GO_ON, RETRY_SECONDS, ending, is_crash, open_input, told
from longcat.pipeline.processes import safe_python
from longcat.stages.data.collect import render_module
from longcat.stages.data.collect.candidates import Candidate

SCRIPT = Path(render_module.__file__)
# The child normally exits by itself; this timeout is for one that does not.
GRACE_SECONDS = 30
TRIES = 2
READY = render_module.READY


class NoPageError(Exception):
    """A candidate has no page; the message is the counted reason."""


def render(candidate: Candidate, cpu_seconds: int, max_bytes: int) -> tuple[str, bytes]:
    """Render a candidate: content type and body.

    Raises:
        NoPageError: import_error, timeout, crashed, too_large, empty or unreadable.
        InputError: a document is missing or no longer readable.
        MachineError: the machine failed twice.
    """
    if candidate.kind == "html":
        content_type, body = "text/html", _read(Path(candidate.target), max_bytes)
    elif candidate.kind == "description":
        content_type, body = _description(candidate.target)
    else:
        content_type, body = "text/html; charset=utf-8", _module_page(candidate.target, cpu_seconds, max_bytes)
    if not body.strip():
        raise NoPageError("empty")
    if len(body) > max_bytes:
        raise NoPageError("too_large")
    return content_type, body


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with open_input(path) as stream:
            return stream.read(max_bytes + 1)
    except OSError as error:
        what = f"is no longer readable: {error.strerror or error}"
        raise InputError(what, where=str(path), hint="run the command again to search for documents again") from None


def _description(name: str) -> tuple[str, bytes]:
    try:
        with told(f"the metadata of {name}"):
            found = metadata(name)
    except PackageNotFoundError:
        raise NoPageError("unreadable") from None
    # The standard library gives None for what is missing, importlib_metadata raises KeyError.
    text, declared = ((found.get_all(key) or [""])[0] for key in ("Description", "Description-Content-Type"))
    declared = (declared or "text/plain").partition(";")[0].strip()
    return f"{declared}; charset=utf-8", str(text).encode("utf-8", "replace")


def _environment(home: str) -> Mapping[str, str]:
    """Fixed environment, so that pages do not depend on the caller's; proxies are for kernels that forbid isolation."""
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "http_proxy": nowhere,
        "https_proxy": nowhere,
    }


class _Failed(Exception):  # noqa: N818 - passed between the functions here
    """The child exited without a result; `crashed` if the module may be the cause."""

    def __init__(self, what: str, *, crashed: bool) -> None:
        super().__init__(what)
        self.crashed = crashed


def _module_page(module: str, cpu_seconds: int, max_bytes: int) -> bytes:
    """Render the page of a module; it counts as crashed after two child crashes.

    Raises:
        NoPageError: import_error, timeout, too_large or crashed.
        MachineError: the machine failed twice, or killed two children.
    """
    crashes = faults = 0
    while True:
        try:
            return _rendered(module, cpu_seconds, max_bytes)
        except _Failed as failed:
            crashes, faults = crashes + failed.crashed, faults + (not failed.crashed)
            if crashes == TRIES:
                raise NoPageError("crashed") from None
            if faults == TRIES:
                hint = f"{GO_ON}; --set skip_modules=... excludes a module"
                raise MachineError(f"could not be rendered: {failed}", where=module, hint=hint) from None
        time.sleep(RETRY_SECONDS)


def _rendered(module: str, cpu_seconds: int, max_bytes: int) -> bytes:
    with ExitStack() as stack:
        try:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="longcat-pydoc-"))
            page = stack.enter_context(tempfile.TemporaryFile())
        except OSError as error:
            raise _Failed(f"{error.strerror or error} in {tempfile.gettempdir()}", crashed=False) from None
        used = _processor_seconds()
        status = _wait(_child(module, cpu_seconds, max_bytes, home, page), 6 * cpu_seconds + GRACE_SECONDS)
        page.seek(0)
        written = page.read(len(READY) + max_bytes + 1)
        _check(status, written, out_of_time=_processor_seconds() - used >= cpu_seconds)
        return written[len(READY) :]


def _child(module: str, cpu_seconds: int, max_bytes: int, home: str, page: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [*safe_python(), str(SCRIPT), module, str(cpu_seconds), str(max_bytes)],
            stdin=subprocess.DEVNULL,
            stdout=page,
            stderr=subprocess.DEVNULL,
            cwd=home,
            env=dict(_environment("/nonexistent")),
            start_new_session=True,
        )
    except OSError as error:
        raise _Failed(f"its process cannot be started: {error.strerror or error}", crashed=False) from None


def _processor_seconds() -> float:
    """Resource usage of finished children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait(child: subprocess.Popen[bytes], seconds: int) -> int:
    try:
        return child.wait(timeout=seconds)
    except BaseException as error:
        # Kill the whole group, including processes started by the module.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise NoPageError("timeout") from None
        raise


def _check(status: int, written: bytes, *, out_of_time: bool) -> None:
    """Raise for a child without a page; `written` is its output."""
    if status == 0:
        return
    if status == render_module.IMPORT_ERROR:
        raise NoPageError("import_error")
    if status == render_module.TOO_LARGE:
        raise NoPageError("too_large")
    # The kernel kills processes over the CPU time limit.
    own = (-signal.SIGXCPU, -signal.SIGALRM) + ((-signal.SIGKILL,) if out_of_time else ())
    if status in own:
        raise NoPageError("timeout")
    if status == render_module.FAULT:
        raise _Failed(written[len(READY) :].decode(errors="replace"), crashed=False)
    if status == render_module.UNWRITTEN:
        raise _Failed(f"its page cannot be written to {tempfile.gettempdir()} (full?)", crashed=False)
    # Before it is ready, the module has not been imported.
    raise _Failed(ending(status), crashed=is_crash(status) or (status > 0 and written.startswith(READY)))
