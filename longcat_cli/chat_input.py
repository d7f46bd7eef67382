'''Messages of a chat from a terminal or a pipe: lines with editing and history, and several lines between """.'''

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

MAX_MESSAGE_BYTES = 1 << 20
QUOTES = '"""'
PROMPT, MORE = "> ", "... "


@dataclass(frozen=True)
class Said:
    """One message, or a command."""

    text: str
    is_command: bool = False


def edit_lines() -> None:
    """Turn on line editing and history, if this Python and this terminal have them."""
    if not _edits():
        return
    import readline

    from longcat.cli.terminal import signal_descriptor

    readline.set_auto_history(True)
    # A paste of several lines is one message. Python turns this off.
    readline.parse_and_bind("set enable-bracketed-paste on")
    threading.Thread(target=_wake_input, args=(signal_descriptor(),), name="chat-signals", daemon=True).start()


@dataclass
class _Wait:
    """Whether `input` waits for a line, and how often it has begun to."""

    number: int = 0
    waits: bool = False


_wait = _Wait()
MISSED_SECONDS = 0.05


def _wake_input(signals: int) -> None:
    """Interrupt `input` again if it missed a signal, which it does if one arrives just before it waits."""
    os.set_blocking(signals, True)
    while os.read(signals, 1 << 10):
        number = _wait.number
        time.sleep(MISSED_SECONDS)
        if _wait.waits and _wait.number == number:
            # Harmless, but it ends the wait, after which Python runs the handlers of all signals.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGWINCH)


def _edits() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        import readline  # noqa: F401  `input` uses it once it is imported
    except ImportError:
        return False
    return True


def read_message() -> Said | None:
    """Read one message; None at the end of the input.

    Text between two `\"\"\"`, also over several lines, is taken as it is. A line that begins with `/` is a command, one
    with `//` a message that begins with `/`.

    Raises:
        InputError: the input is not text, too long, or ends within `\"\"\"`.
        InterruptedRunError: a signal arrived; what was typed is lost.
    """
    line = _read_line(PROMPT)
    if line is None:
        return None
    text = line.strip()
    if text.startswith(QUOTES):
        return Said(_read_quoted(text.removeprefix(QUOTES)))
    if text.startswith("//"):
        return Said(text[1:])
    return Said(text, is_command=text.startswith("/"))


def _read_quoted(first: str) -> str:
    from longcat.pipeline.errors import InputError

    lines, size, line = [], 0, first
    while not line.rstrip().endswith(QUOTES):
        lines.append(line)
        size += len(line)
        if size > MAX_MESSAGE_BYTES:
            raise _too_long()
        following = _read_line(MORE)
        if following is None:
            raise InputError(f"the input ends before the closing {QUOTES}", where="stdin")
        line = following
    return "\n".join([*lines, line.rstrip().removesuffix(QUOTES)]).strip("\n")


def _read_line(prompt: str) -> str | None:
    """One line without its end, None at the end of the input."""
    from longcat.pipeline.errors import InputError, InterruptedRunError

    try:
        return _edited_line(prompt) if _edits() else _plain_line(prompt)
    except UnicodeDecodeError as error:
        kind = error.encoding.upper() if sys.stdin.isatty() else "UTF-8"
        raise InputError(f"this is not {kind}", where="stdin") from None
    except InterruptedRunError:
        sys.stderr.write("\n")
        raise


def _edited_line(prompt: str) -> str | None:
    try:
        _wait.number, _wait.waits = _wait.number + 1, True
        line = input(prompt)
    except EOFError:
        return None
    finally:
        _wait.waits = False
    # A paste can hold several lines.
    if len(line) > MAX_MESSAGE_BYTES:
        raise _too_long()
    return line


def _plain_line(prompt: str) -> str | None:
    from longcat.cli.terminal import wait_for_input

    if sys.stdin.isatty():
        sys.stderr.write(prompt)
        sys.stderr.flush()
        wait_for_input(sys.stdin.fileno())
    line = sys.stdin.buffer.readline(MAX_MESSAGE_BYTES + 1)
    if len(line) > MAX_MESSAGE_BYTES:
        raise _too_long()
    encoding = sys.stdin.encoding if sys.stdin.isatty() else "utf-8"
    return line.decode(encoding).removesuffix("\n").removesuffix("\r") if line else None


def _too_long() -> Exception:
    from longcat.pipeline.errors import InputError

    return InputError(f"a message is longer than {MAX_MESSAGE_BYTES:,} bytes", where="stdin")
