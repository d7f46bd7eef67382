"""Chat and generate on a terminal and in a pipe: Ctrl-C, output streams, escape sequences."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from longcat.cli import terminal as console_input
from longcat.cli.chat import LEAVE
from longcat.model.checkpoint import save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import InterruptedRunError
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer

# The command with a slow model that never ends an answer by itself.
SLOW = """
import time
from longcat.cli.app import main
from longcat.stages.inference.engine import InferenceEngine
step = InferenceEngine.step
def slow(engine):
    time.sleep({seconds})
    step(engine)
InferenceEngine.step = slow
InferenceEngine.stop_token_ids = property(lambda engine: frozenset(), lambda engine, value: None)
main()
"""
# The same with a step that does not end by itself; it says when the step has begun and when a signal was handled.
STUCK = """
import os
from longcat.pipeline.interrupt import StopSignal
handle = StopSignal._handle
def told(signal, number, frame):
    try:
        handle(signal, number, frame)
    finally:
        os.write(2, b"[handled]")
StopSignal._handle = told
""" + SLOW.format(seconds=30).replace("time.sleep", "os.write(2, b'[begun]'); time.sleep")
# The terminal is asked to mark pasted text.
PASTES = "\x1b[?2004h"
# The command with a model whose text contains escape sequences.
HOSTILE = """
from longcat.cli.app import main
from longcat.stages.inference import generate
from longcat.stages.inference.batch import Choice
pieces = ["\\x1b[2J", "\\x1b]0;t\\x07 [/b] \\u202e", " end"]
generate.continue_text = lambda *given, **more: iter(pieces)
generate.complete = lambda *given, **more: (1, [Choice("".join(pieces), 1, "stop")])
main()
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint folder with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    folder.mkdir()
    text = "The quick brown fox jumps over the lazy dog, again and again. "
    write_tokenizer(train((text,) * 8, TokenizerConfig(vocab_size=320)), folder)
    changes = {"vocab_size": 320, "max_position_embeddings": 1024, "initializer_range": 0.3}
    model = LongcatFlash(ModelConfig(**{**load_preset("smoke").model_dump(), **changes}))
    initialize(model, 5)
    save_pretrained(model, folder)
    return str(folder)


def words(checkpoint: str, *more: str) -> list[str]:
    return ["--checkpoint", checkpoint, "--device", "cpu", "--threads", "1", *more]


@pytest.fixture
def chat(terminal: Any, checkpoint: str) -> Any:
    """Start a chat that generates one token in 20 ms; return it at its prompt."""

    def start() -> Any:
        shown = terminal("chat", *words(checkpoint, "--max-tokens", "400"), code=SLOW.format(seconds=0.02))
        shown.wait_for("> ")
        return shown

    return start


def answering(shown: Any, message: str, *, after: int) -> int:
    """Send a message and wait until an answer starts."""
    shown.send(f"{message}\n")
    begun = shown.wait_for(f"{message}\r\n", after=after)
    while len(shown.shown) < begun + 10:
        assert shown.read()
    return len(shown.shown)


def test_ctrl_c_ends_the_answer_and_keeps_the_conversation(chat: Any) -> None:
    shown = chat()
    at = answering(shown, "Hello", after=0)
    shown.send("\x03")
    at = shown.wait_for("answer stopped", after=at)
    at = shown.wait_for("> ", after=at)
    at = answering(shown, "Again", after=at)
    shown.send("\x03")
    at = shown.wait_for("> ", after=shown.wait_for("answer stopped", after=at))
    shown.send("\x03")
    at = shown.wait_for("> ", after=shown.wait_for(LEAVE, after=at))
    shown.send("\x03")
    assert shown.end() == 130
    assert "longcat: interrupted\r\n" in shown.shown
    assert "resume from here" not in shown.shown
    assert "Traceback" not in shown.shown


def test_ctrl_c_at_the_prompt_clears_the_line_and_shows_how_to_leave(chat: Any) -> None:
    shown = chat()
    at = 0
    for _ in range(2):
        shown.send("half a line")
        at = shown.wait_for("half a line", after=at)
        shown.send("\x03")
        hinted = shown.wait_for(f"({LEAVE})\r\n", after=at)
        at = shown.wait_for("> ", after=hinted)
        assert shown.shown[hinted:at].removeprefix(PASTES) == "> "
        at = answering(shown, "Hello", after=at)
        shown.send("\x03")
        at = shown.wait_for("> ", after=shown.wait_for("answer stopped", after=at))
    shown.send("\x03")
    at = shown.wait_for("> ", after=shown.wait_for(LEAVE, after=at))
    shown.send("/exit\n")
    assert shown.end() == 0
    assert "interrupted" not in shown.shown


def test_two_ctrl_c_at_the_prompt_leave(chat: Any) -> None:
    shown = chat()
    shown.send("\x03")
    at = shown.wait_for("> ", after=shown.wait_for(LEAVE))
    shown.send("\n")
    at = shown.wait_for("> ", after=at)
    shown.send("\x03")
    at = shown.wait_for("> ", after=shown.wait_for(LEAVE, after=at))
    shown.send("\x03")
    assert shown.end() == 130
    assert shown.shown.count(LEAVE) == 2
    assert shown.shown.endswith("longcat: interrupted\r\n")


def test_sigterm_at_the_prompt_ends_a_chat(chat: Any) -> None:
    shown = chat()
    os.kill(shown.process.pid, signal.SIGTERM)
    assert shown.end() == 130
    assert LEAVE not in shown.shown


def test_messages_before_ctrl_c_are_kept(terminal: Any, checkpoint: str) -> None:
    """The third message prints the messages instead of an answer."""
    code = SLOW.format(seconds=0.02).replace(
        "main()",
        "from longcat.stages.inference.chat import ChatSession\n"
        "send = ChatSession.send\n"
        "def told(self, text, *given):\n"
        "    if text == 'Tell':\n"
        "        return iter(['turns: ' + ' / '.join(t['role'] + ' ' + t['content'][:5] for t in self.messages)])\n"
        "    return send(self, text, *given)\n"
        "ChatSession.send = told\n"
        "main()",
    )
    shown = terminal("chat", *words(checkpoint, "--system", "Be brief."), code=code)
    at = answering(shown, "Hello", after=shown.wait_for("> "))
    shown.send("\x03")
    at = shown.wait_for("> ", after=shown.wait_for("answer stopped", after=at))
    shown.send("Tell\n")
    at = shown.wait_for("turns: system Be br / user Hello / assistant ", after=at)
    shown.wait_for("> ", after=at)
    shown.send("/exit\n")
    assert shown.end() == 0


def test_a_second_ctrl_c_stops_a_long_step_and_keeps_the_conversation(terminal: Any, checkpoint: str) -> None:
    shown = terminal("chat", *words(checkpoint), code=STUCK)
    shown.wait_for("> ")
    shown.send("Hello\n")
    at = shown.wait_for("[begun]")
    shown.send("\x03")
    at = shown.wait_for("[handled]", after=at)
    shown.send("\x03")
    shown.wait_for("> ", after=shown.wait_for("answer stopped", after=at))
    shown.send("\x04")
    assert shown.end() == 0


def test_sigterm_ends_a_chat_at_once(chat: Any) -> None:
    shown = chat()
    answering(shown, "Hello", after=0)
    os.kill(shown.process.pid, signal.SIGTERM)
    assert shown.end() == 130
    assert "longcat: interrupted\r\n" in shown.shown


def test_an_interrupted_continuation_does_not_mention_resuming(terminal: Any, checkpoint: str) -> None:
    arguments = words(checkpoint, "--prompt", "Hello", "--max-tokens", "400")
    shown = terminal("generate", *arguments, code=SLOW.format(seconds=0.02))
    at = shown.wait_for("Hello")
    while len(shown.shown) < at + 10:
        assert shown.read()
    shown.send("\x03")
    assert shown.end() == 130
    assert shown.lines[-2] == "longcat: interrupted"


def test_generated_text_is_printable_on_a_terminal_and_exact_in_a_pipe(terminal: Any, checkpoint: str) -> None:
    arguments = ["generate", *words(checkpoint, "--prompt", "a\x1b[31m")]
    shown = terminal(*arguments, code=HOSTILE)
    assert shown.end() == 0
    assert shown.shown == "a\\x1b[31m\\x1b[2J\\x1b]0;t\\x07 [/b] \\u202e end\r\n"
    piped = subprocess.run([sys.executable, "-c", HOSTILE, *arguments], capture_output=True, check=True)
    assert piped.stdout == "a\x1b[31m\x1b[2J\x1b]0;t\x07 [/b] \u202e end\n".encode()
    as_json = subprocess.run([sys.executable, "-c", HOSTILE, *arguments, "--json"], capture_output=True, check=True)
    assert json.loads(as_json.stdout)["text"] == "\x1b[2J\x1b]0;t\x07 [/b] \u202e end"


def run(*arguments: str | bytes, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "longcat.cli", *arguments], input=given, capture_output=True, check=False
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"na\xefve", "stdin: the text is not UTF-8 from character 3 on (convert it, with iconv for example)"),
        (b"x" * (1 << 20) + b"yz", "stdin: the prompt is longer than 1,048,576 bytes"),
        (b"", "prompt: an empty prompt gives the model nothing to continue"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_one_line(checkpoint: str, given: bytes, message: str) -> None:
    done = run("generate", *words(checkpoint), given=given)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.decode() == f"longcat: {message}\n"


def test_invalid_utf_8_on_the_command_line_is_one_line(checkpoint: str) -> None:
    for name, command in (("--prompt", "generate"), ("--system", "chat")):
        done = run(command, *words(checkpoint), name, b"na\xefve")
        assert (done.returncode, done.stdout) == (3, b"")
        assert done.stderr.decode().startswith(f"longcat: {name}: the text is not UTF-8 from character 3 on")


def test_a_chat_in_a_pipe_writes_only_answers(checkpoint: str, tmp_path: Path) -> None:
    done = run("chat", *words(checkpoint, "--max-tokens", "3"), given=b"Hello\n\n/reset\nAgain\n/exit\nnot said\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") >= 2
    assert b"> " not in done.stdout[:2]
    done = run("chat", *words(checkpoint), given=b"na\xefve\n")
    assert (done.returncode, done.stderr) == (3, b"longcat: stdin: this is not UTF-8\n")


class _RaisesAt:
    """A trace function that raises at line event `number` of `longcat_cli/terminal.py`, like a signal handler."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: Any, event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith("terminal.py"):
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                raise InterruptedRunError("interrupted")
        return self


@pytest.mark.parametrize("number", range(1, 16))
def test_an_interrupt_at_any_line_of_a_wait_does_not_break_the_next_wait(number: int) -> None:
    before = signal.set_wakeup_fd(-1)
    reading, writing = os.pipe()
    os.write(writing, b"a line\n")
    traced = sys.gettrace()
    try:
        sys.settrace(_RaisesAt(number))
        with suppress(InterruptedRunError):
            console_input.wait_for_input(reading)
        sys.settrace(traced)
        console_input.wait_for_input(reading)
        wakeup = signal.set_wakeup_fd(-1)
        if wakeup >= 0:
            os.fstat(wakeup)
    finally:
        sys.settrace(traced)
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
        console_input.signal_descriptor.cache_clear()
