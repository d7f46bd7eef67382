"""Chat and generate on a terminal and in a pipe: Ctrl-C, what is written where, text that steers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longcat.model.checkpoint import save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer

# The command with a model that takes its time and never ends an answer by itself.
SLOW = """
import dataclasses, time
from longcat.cli import generate
from longcat.cli.app import main
from longcat.stages.serve.engine import InferenceEngine
append, params = InferenceEngine.append, generate._params
def slow(*arguments, **options):
    time.sleep({seconds})
    return append(*arguments, **options)
InferenceEngine.append = slow
generate._params = lambda *given: dataclasses.replace(params(*given), ignore_eos=True)
main()
"""
# The command with a model that says what an enemy would like it to say.
HOSTILE = """
from longcat.cli.app import main
from longcat.stages.serve import generate
generate.continue_text = lambda *given: iter(["\\x1b[2J", "\\x1b]0;t\\x07 [/b] \\u202e", " end"])
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
    """A chat that answers with a token every so many seconds, at its prompt."""

    def start(seconds: float = 0.02) -> Any:
        shown = terminal("chat", *words(checkpoint, "--max-tokens", "400"), code=SLOW.format(seconds=seconds))
        shown.wait_for("> ")
        return shown

    return start


def answering(shown: Any, message: str, *, after: int) -> int:
    """Say something and wait until an answer is on its way."""
    shown.send(f"{message}\n")
    begun = shown.wait_for(f"{message}\r\n", after=after)
    while len(shown.shown) < begun + 10:
        assert shown.read()
    return len(shown.shown)


def test_ctrl_c_ends_the_answer_and_keeps_the_conversation(chat: Any) -> None:
    shown = chat()
    at = answering(shown, "Hello", after=0)
    shown.send("\x03")
    at = shown.wait_for("answer ended", after=at)
    at = shown.wait_for("> ", after=at)
    at = answering(shown, "Again", after=at)
    shown.send("\x03")
    at = shown.wait_for("> ", after=shown.wait_for("answer ended", after=at))
    shown.send("\x03")
    assert shown.end() == 130
    assert "longcat: interrupted\r\n" in shown.shown
    assert "go on from here" not in shown.shown
    assert "Traceback" not in shown.shown


def test_what_was_said_before_ctrl_c_is_remembered(terminal: Any, checkpoint: str) -> None:
    """The turns are printed instead of being answered the third time."""
    code = SLOW.format(seconds=0.02).replace(
        "main()",
        "from longcat.stages.serve.chat import ChatSession\n"
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
    at = shown.wait_for("> ", after=shown.wait_for("answer ended", after=at))
    shown.send("Tell\n")
    at = shown.wait_for("turns: system Be br / user Hello / assistant ", after=at)
    shown.wait_for("> ", after=at)
    shown.send("/exit\n")
    assert shown.end() == 0


def test_a_second_ctrl_c_breaks_off_what_does_not_look_and_keeps_the_conversation(chat: Any) -> None:
    shown = chat(seconds=30)
    shown.send("Hello\n")
    at = shown.wait_for("Hello\r\n")
    shown.read(1.0)
    shown.send("\x03")
    shown.wait_for("^C", after=at)
    shown.read(0.5)
    shown.send("\x03")
    shown.wait_for("> ", after=shown.wait_for("answer ended", after=at))
    shown.send("\x04")
    assert shown.end() == 0


def test_sigterm_ends_a_chat_at_once(chat: Any) -> None:
    shown = chat()
    answering(shown, "Hello", after=0)
    os.kill(shown.process.pid, signal.SIGTERM)
    assert shown.end() == 130
    assert "longcat: interrupted\r\n" in shown.shown


def test_an_interrupted_continuation_says_nothing_of_going_on(terminal: Any, checkpoint: str) -> None:
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


def test_bytes_on_the_command_line_that_are_no_utf_8_are_one_line(checkpoint: str) -> None:
    for name, command in (("--prompt", "generate"), ("--system", "chat")):
        done = run(command, *words(checkpoint), name, b"na\xefve")
        assert (done.returncode, done.stdout) == (3, b"")
        assert done.stderr.decode().startswith(f"longcat: {name}: the text is not UTF-8 from character 3 on")


def test_a_chat_in_a_pipe_writes_answers_alone(checkpoint: str, tmp_path: Path) -> None:
    done = run("chat", *words(checkpoint, "--max-tokens", "3"), given=b"Hello\n\n/reset\nAgain\n/exit\nnot said\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") >= 2
    assert b"> " not in done.stdout[:2]
    done = run("chat", *words(checkpoint), given=b"na\xefve\n")
    assert (done.returncode, done.stderr) == (3, b"longcat: stdin: this is not UTF-8\n")
