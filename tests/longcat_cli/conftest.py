"""The command in a child process on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

SECONDS = 60.0


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal with the given number of columns."""

    def __init__(self, arguments: Sequence[str], columns: int, code: str | None) -> None:
        self.parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        dropped = ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE")
        given = {name: value for name, value in os.environ.items() if name not in dropped}
        start = [sys.executable, "-c", code] if code else [sys.executable, "-m", "longcat.cli"]
        self.process = subprocess.Popen(
            [*start, *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  the test's process starts no threads that could hold a lock
            env={**given, "TERM": "xterm-256color", "NO_COLOR": "1"},
        )
        os.close(child)
        self.shown = ""

    def read(self, seconds: float = 0.2) -> bool:
        """Read available output; false once the command has closed the terminal."""
        if not select.select([self.parent], [], [], seconds)[0]:
            return True
        try:
            got = os.read(self.parent, 1 << 16)
        except OSError:  # the child is gone
            return False
        self.shown += got.decode("utf-8", "replace")
        return bool(got)

    def wait_for(self, text: str, *, after: int = 0) -> int:
        """Read until `text` has been shown at or after a position; return the position after it."""
        deadline = time.monotonic() + SECONDS
        while text not in self.shown[after:]:
            assert time.monotonic() < deadline, f"{text!r} was not shown: {self.shown[after:]!r}"
            assert self.read() or text in self.shown[after:], f"the command exited before {text!r}: {self.shown!r}"
        return self.shown.index(text, after) + len(text)

    def send(self, text: str) -> None:
        """Send input; `\\x03` is Ctrl-C."""
        os.write(self.parent, text.encode())

    def end(self) -> int:
        """Read to the end; return the exit code."""
        deadline = time.monotonic() + SECONDS
        while self.read() and time.monotonic() < deadline:
            pass
        return self.process.wait(timeout=SECONDS)

    @property
    def text(self) -> str:
        """Shown text without styles."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.shown.replace("\r\n", "\n"))

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        with suppress(OSError):
            os.close(self.parent)


def _take_terminal() -> None:
    # Only the controlling terminal of a session turns Ctrl-C into a signal.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


StartTerminal = Callable[..., Terminal]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[StartTerminal]:
    """Start `longcat ARGUMENTS...` (or Python code) on a terminal 100 columns wide; it is killed after the test."""
    started: list[Terminal] = []

    def start(*arguments: str, columns: int = 100, code: str | None = None) -> Terminal:
        started.append(Terminal(arguments, columns, code))
        return started[-1]

    yield start
    for one in started:
        one.close()


def tiny_checkpoint(folder: Path, context: int) -> Path:
    """Write a checkpoint with random weights, whose greedy text varies, and a tokenizer of 320 tokens."""
    from longcat.model.checkpoint import save_pretrained
    from longcat.model.config import ModelConfig
    from longcat.model.init import initialize
    from longcat.model.presets import load_preset
    from longcat.model.transformer import LongcatFlash
    from longcat.stages.data.tokenizer.bpe import train
    from longcat.stages.data.tokenizer.config import TokenizerConfig
    from longcat.stages.data.tokenizer.files import write_tokenizer

    folder.mkdir()
    text = 'The quick brown fox jumps over the lazy dog, again and again. {"a": [1, 2, true]} '
    write_tokenizer(train((text,) * 8, TokenizerConfig(vocab_size=320)), folder)
    changes = {"vocab_size": 320, "max_position_embeddings": context, "initializer_range": 0.3}
    model = LongcatFlash(ModelConfig(**{**load_preset("smoke").model_dump(), **changes}))
    initialize(model, 5)
    save_pretrained(model, folder)
    return folder
