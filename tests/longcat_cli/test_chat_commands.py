"""Messages and commands of a chat: several lines, history, settings, files, and unknown commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.chat_commands import COMMANDS, SETTABLE, Conversation, run_command
from longcat.pipeline.errors import InputError
from longcat.stages.inference.sampling import SamplingParams

# The command with a session that answers with the messages and settings that it got.
TOLD = """
import sys
from types import SimpleNamespace
from longcat.cli.app import main
from longcat.cli import chat
from longcat.stages.inference import chat as sessions
chat.checkpoint_folder = lambda ctx, reference: reference
class Session:
    def __init__(self, folder, system, **given):
        self.system, self.turns = system, []
    messages = property(lambda self: self.turns)
    def reset(self):
        self.turns.clear()
    def send(self, text, params, cancelled):
        yield f"got {text!r} at {params.temperature}"
sessions.ChatSession = Session
main()
"""


class Session:
    """Stands for a `ChatSession`."""

    def __init__(self) -> None:
        self.system: str | None = None
        self.turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def reset(self) -> None:
        self.turns.clear()


@pytest.fixture
def conversation() -> Conversation:
    session: Any = Session()
    return Conversation(session, {"temperature": 0.7, "max_tokens": 512})


def piped(text: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", TOLD, "chat", "--checkpoint", "x"]
    return subprocess.run(arguments, input=text, capture_output=True, check=False, text=True)


def test_every_setting_is_a_sampling_parameter(conversation: Conversation) -> None:
    for name in SETTABLE:
        assert hasattr(SamplingParams(), name)


def test_set_changes_the_next_answers(conversation: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(conversation, "/set temperature 0.5")
    run_command(conversation, "/set  seed  7")
    assert (conversation.params().temperature, conversation.params().seed) == (0.5, 7)
    run_command(conversation, "/set seed none")
    assert conversation.params().seed is None
    run_command(conversation, "/set")
    assert "temperature 0.5, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sett", "unknown command /sett"),
        ("/Reset", "unknown command /Reset"),
        ("/", "unknown command /"),
        ("/reset all", "/reset takes nothing after it (found 'all')"),
        ("/exit now", "/exit takes nothing after it"),
        ("/set heat 3", "/set heat: no such setting"),
        ("/set temperature hot", "/set temperature: 'hot' is not a number"),
        ("/set temperature", "/set temperature: '' is not a number"),
        ("/set max_tokens 1.5", "/set max_tokens: '1.5' is not a whole number"),
        ("/set top_p 7", "top_p: must be at least 0 and at most 1"),
        ("/set temperature nan", "temperature: must be at least 0"),
        ("/save", "/save needs the name of a file"),
        ("/load", "/load needs the name of a file"),
        ("/load nowhere.json", "nowhere.json: No such file"),
    ],
)
def test_what_cannot_be_done_is_named_and_changes_nothing(conversation: Conversation, line: str, message: str) -> None:
    before = dict(conversation.sampling)
    with pytest.raises(InputError) as caught:
        run_command(conversation, line)
    assert message in str(caught.value)
    assert conversation.sampling == before


def test_help_names_every_command(conversation: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(conversation, "/help")
    shown = capsys.readouterr().err
    for name in COMMANDS:
        assert name in shown


def test_the_system_prompt_can_be_shown_changed_and_removed(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(conversation, "/system Be brief.")
    assert conversation.session.system == "Be brief."
    run_command(conversation, "/system")
    run_command(conversation, '/system ""')
    assert conversation.session.system is None
    assert capsys.readouterr().err == "Be brief.\n"


def test_a_saved_conversation_can_be_loaded(conversation: Conversation, tmp_path: Path) -> None:
    session, file = conversation.session, tmp_path / "talk.json"
    session.system = "Be brief."
    session.turns += [{"role": "user", "content": "Grüße"}, {"role": "assistant", "content": "Hi."}]
    before = session.messages
    run_command(conversation, f"/save {file}")
    run_command(conversation, f"/save {file}")
    run_command(conversation, "/reset")
    session.system = None
    run_command(conversation, f"/load {file}")
    assert session.messages == before
    assert json.loads(file.read_text("utf-8")) == {"messages": before}
    other = Conversation(session, {})
    with pytest.raises(InputError, match="exists already"):
        run_command(other, f"/save {file}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has no list of messages"),
        ('{"messages": 3}', "has no list of messages"),
        ('{"messages": ["a"]}', "message 0: expected an object"),
        ('{"messages": [{"role": "user"}]}', "message 0: expected an object"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "message 0: role is one of"),
        ('{"messages": [{"role": "user", "content": 3}]}', "message 0: role is one of"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}',
            "message 1: only the first",
        ),
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(
    conversation: Conversation, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "talk.json"
    file.write_text(content)
    conversation.session.turns.append({"role": "user", "content": "kept"})
    with pytest.raises(InputError, match=message):
        run_command(conversation, f"/load {file}")
    assert conversation.session.turns == [{"role": "user", "content": "kept"}]


def test_messages_of_a_pipe() -> None:
    given = 'one\n"""two\n /three\n"""\n"""four"""\n//five\n/set temperature 0\nsix\n/exit\nseven\n'
    done = piped(given)
    assert done.stdout.splitlines() == [
        "got 'one' at 0.7",
        "got 'two\\n /three' at 0.7",
        "got 'four' at 0.7",
        "got '/five' at 0.7",
        "got 'six' at 0.0",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/hepl\nnever\n", "longcat: unknown command /hepl (/help lists the commands; begin a message with // to say "),
        ('"""open\nnever\n', 'longcat: stdin: the input ends before the closing """\n'),
        ("x" * (1 << 20) + "y\n", "longcat: stdin: a message is longer than 1,048,576 bytes\n"),
    ],
)
def test_an_error_in_a_pipe_ends_the_command(given: str, message: str) -> None:
    done = piped(given)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(message)


def test_lines_are_edited_and_remembered_on_a_terminal(terminal: Any) -> None:
    shown = terminal("chat", "--checkpoint", "x", code=TOLD)
    at = shown.wait_for("> ")
    shown.send("irst\x01f\n")
    at = shown.wait_for("got 'first'", after=at)
    at = shown.wait_for("> ", after=at)
    shown.send("/nonsense\n")
    at = shown.wait_for("> ", after=shown.wait_for("longcat: unknown command /nonsense", after=at))
    shown.send("\x1b[A\x1b[A again\n")
    at = shown.wait_for("got 'first again'", after=at)
    at = shown.wait_for("> ", after=at)
    shown.send("\x1b[200~two\rlines\x1b[201~\n")
    at = shown.wait_for("got 'two\\nlines'", after=at)
    at = shown.wait_for("> ", after=at)
    shown.send("\x04")
    assert shown.end() == 0


def test_ctrl_c_drops_a_message_of_several_lines(terminal: Any) -> None:
    shown = terminal("chat", "--checkpoint", "x", code=TOLD)
    shown.wait_for("> ")
    shown.send('"""one\n')
    at = shown.wait_for("... ")
    shown.send("\x03")
    at = shown.wait_for("> ", after=shown.wait_for("press Ctrl-C again", after=at))
    shown.send("two\n")
    at = shown.wait_for("got 'two'", after=at)
    shown.wait_for("> ", after=at)
    shown.send("/exit\n")
    assert shown.end() == 0


def test_a_message_in_another_encoding_is_named_on_a_terminal(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    shown = terminal("chat", "--checkpoint", "x", code=TOLD)
    at = shown.wait_for("> ")
    shown.send("na\xefve\n")
    at = shown.wait_for("longcat: stdin: this is not ASCII", after=at)
    shown.wait_for("> ", after=at)
    shown.send("/exit\n")
    assert shown.end() == 0
