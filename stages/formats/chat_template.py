"""Untrusted chat templates, rendered in a child process under limits.

A template is a program. Jinja's sandbox protects this process's objects, but does not prevent endless loops or
exhausting memory, also during compilation; a separate process can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from longcat.pipeline.errors import InputError, LongcatError, MachineError
from longcat.pipeline.faults import ending, is_crash
from longcat.pipeline.processes import safe_environment, safe_python
from longcat.stages.formats import template_child
from longcat.stages.formats.template_child import CPU_SECONDS, LENGTH, WALL_SECONDS

SCRIPT = Path(template_child.__file__)
END_SECONDS = 5.0


class ChatTemplate:
    """One template and its rendering child, started by the first `render`. Thread-safe."""

    def __init__(self, source: str) -> None:
        """Check the syntax of a template; it is compiled in the child.

        Raises:
            InputError: it is not a Jinja template.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        try:
            ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
        except TemplateError as error:
            raise InputError(f"the chat template is not valid: {error}") from None
        except RecursionError:
            raise InputError("the chat template is not valid: nested too deeply") from None
        self._source = source
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def render(self, values: Mapping[str, Any], max_characters: int) -> str:
        """Render the template with `values`.

        Raises:
            InputError: the template is not valid or rejects the values, renders more than `max_characters`, or takes
                too much time or memory.
            MachineError: the child was killed by something else.
        """
        try:
            request = _packed({"values": values, "limit": max_characters})
        except (TypeError, ValueError, RecursionError):
            raise InputError("the messages contain a value that JSON cannot represent") from None
        with self._lock:
            # A child of the process that this one was forked from must not be used.
            if self._child is None or self._child.owner != os.getpid():
                self._child = _Child(self._source)
            try:
                reply = self._child.ask(request)
            except (EOFError, OSError):
                child, self._child = self._child, None
                raise _death(child.end()) from None
        if "text" in reply:
            return str(reply["text"])
        if "long" in reply:
            raise InputError(f"the prompt grows beyond {max_characters} characters")
        if "invalid" in reply:
            raise InputError(f"the chat template is not valid: {reply['invalid']}")
        raise InputError(f"the chat template rejects the messages: {reply['refused']}")


class _Child:
    """A running child and its two pipes; it is ended with this object."""

    def __init__(self, source: str) -> None:
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            [*safe_python(), str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **safe_environment()},
        )
        self._requests = cast("BinaryIO", self._process.stdin)
        self._replies = cast("BinaryIO", self._process.stdout)
        self._greeting = _packed(source)
        self.end = weakref.finalize(self, _end, self._process)

    def ask(self, request: bytes) -> dict[str, Any]:
        greeting, self._greeting = self._greeting, b""
        self._requests.write(greeting + request)
        self._requests.flush()
        (size,) = LENGTH.unpack(self._read(LENGTH.size))
        reply: dict[str, Any] = json.loads(self._read(size))
        return reply

    def _read(self, count: int) -> bytes:
        data = self._replies.read(count)
        if len(data) < count:
            raise EOFError
        return data


def _packed(message: Any) -> bytes:
    data = json.dumps(message).encode()
    return LENGTH.pack(len(data)) + data


def _end(process: subprocess.Popen[bytes]) -> int:
    """Close the pipes, which ends a waiting child, and return the exit status."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _death(status: int | None) -> LongcatError:
    if status == -signal.SIGPROF:
        return InputError(f"the chat template takes more than {CPU_SECONDS:g} s of CPU time")
    if status == -signal.SIGALRM:
        return InputError(f"the chat template takes more than {WALL_SECONDS:g} s")
    if status is None or is_crash(status):
        return InputError("the chat template crashes Jinja")
    return MachineError(f"the process that renders chat templates failed: {ending(status)}", hint="try again")
