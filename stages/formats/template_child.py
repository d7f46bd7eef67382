"""Child process: renders an untrusted chat template under limits on time, memory and files.

Runs as a script. Reads the template from standard input, then requests; writes responses to standard output. All are
length-prefixed JSON. Imports nothing of longcat, for a fast start.
"""

import json
import resource
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

LENGTH = struct.Struct("<I")
CPU_SECONDS = 5.0
WALL_SECONDS = 60.0
MEMORY_BYTES = 1 << 30
OPEN_FILES = 32
REASON_CHARACTERS = 300


def compiled(source: str) -> Any:
    """Compile the template in a sandbox configured like that of transformers, for identical output."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def answer(render: Callable[[dict[str, Any]], Any], request: dict[str, Any]) -> dict[str, Any]:
    """`{"text"}`, or the reason for failure: `{"refused"}` by the template, `{"long"}` beyond the character limit."""
    try:
        parts: list[str] = []
        size = 0
        for part in render(request["values"]):
            parts.append(part)
            size += len(part)
            if size > request["limit"]:
                return {"long": True}
        return {"text": "".join(parts)}
    except Exception as error:  # any exception is the template's error
        return {"refused": reason(error)}


def reason(error: Exception) -> str:
    """Message of a template error, on one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply or recurses without end"
    if isinstance(error, MemoryError):
        return f"it takes more than {MEMORY_BYTES >> 20} MiB of memory"
    return " ".join(str(error).split())[:REASON_CHARACTERS] or type(error).__name__


def limit() -> None:
    """Limit this process; a file size limit of zero and few descriptors prevent writing files."""
    for kind, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def receive() -> Any:
    """Read the next message; EOFError when the parent has closed the pipe."""
    (size,) = LENGTH.unpack(_read(LENGTH.size))
    return json.loads(_read(size))


def _read(count: int) -> bytes:
    data = sys.stdin.buffer.read(count)
    if len(data) < count:
        raise EOFError
    return data


def send(message: Any) -> None:
    """Send a response to the parent."""
    data = json.dumps(message).encode()
    sys.stdout.buffer.write(LENGTH.pack(len(data)) + data)
    sys.stdout.buffer.flush()


def main() -> None:
    # Ctrl-C is sent to the whole terminal group; the parent handles it and closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: F401  before there are limits

    limit()
    template = None
    with suppress(EOFError, BrokenPipeError):
        source = receive()
        while True:
            request = receive()
            # No handler: when a timer expires the kernel kills the process.
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
            try:
                template = template or compiled(source)
            except Exception as error:  # errors of Jinja's compiler on the template
                reply = {"invalid": reason(error)}
            else:
                reply = answer(template.generate, request)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(reply)


if __name__ == "__main__":
    main()
