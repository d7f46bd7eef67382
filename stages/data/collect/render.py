"""Render a candidate: a module in a child process, a description or a document from its file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from longcat.stages.data.collect import render_module
from longcat.stages.data.collect.candidates import Candidate

SCRIPT = Path(render_module.__file__)
# The child ends itself; this is for one that cannot.
GRACE_SECONDS = 30


class NoPageError(Exception):
    """A candidate gave no page; the message is the reason that is counted."""


def render(candidate: Candidate, cpu_seconds: int, max_bytes: int) -> tuple[str, bytes]:
    """Content type and body of a candidate's page.

    Raises:
        NoPageError: import_error, timeout, crashed, too_large, empty or unreadable.
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
        with path.open("rb") as stream:
            return stream.read(max_bytes + 1)
    except OSError:
        raise NoPageError("unreadable") from None


def _description(name: str) -> tuple[str, bytes]:
    try:
        found = metadata(name)
    except PackageNotFoundError:
        raise NoPageError("unreadable") from None
    text = found["Description"] or ""
    declared = (found["Description-Content-Type"] or "text/plain").partition(";")[0].strip()
    return f"{declared}; charset=utf-8", str(text).encode("utf-8", "replace")


def _environment(home: str) -> Mapping[str, str]:
    """A fixed environment: pages must not depend on the caller's, and a page must reach no network."""
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


def _module_page(module: str, cpu_seconds: int, max_bytes: int) -> bytes:
    command = [sys.executable, "-P", str(SCRIPT), module, str(cpu_seconds), str(max_bytes)]
    with tempfile.TemporaryDirectory(prefix="longcat-pydoc-") as home, tempfile.TemporaryFile() as page:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=page,
            stderr=subprocess.DEVNULL,
            cwd=home,
            env=dict(_environment("/nonexistent")),
            start_new_session=True,
        )
        code = _wait(child, 6 * cpu_seconds + GRACE_SECONDS)
        _check(code)
        page.seek(0)
        return page.read(max_bytes + 1)


def _wait(child: subprocess.Popen[bytes], seconds: int) -> int:
    try:
        return child.wait(timeout=seconds)
    except BaseException as error:
        # The whole group: what the module started would otherwise live on.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise NoPageError("timeout") from None
        raise


def _check(code: int) -> None:
    if code == 0:
        return
    if code == render_module.IMPORT_ERROR:
        raise NoPageError("import_error")
    if code == render_module.TOO_LARGE:
        raise NoPageError("too_large")
    raise NoPageError("timeout" if code in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL) else "crashed")
