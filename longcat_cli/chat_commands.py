"""Commands of a chat: lines that begin with `/`. An unknown one is refused, never sent to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.stages.inference.chat import ChatSession
    from longcat.stages.inference.sampling import SamplingParams

MAX_FILE_BYTES = 64 << 20
ROLES = ("system", "user", "assistant")
EMPTY = '""'
SETTABLE: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "max_tokens": int,
    "seed": int,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
}


@dataclass
class Conversation:
    """State of a chat: the session, sampling values by their names in `SamplingParams`, files written by /save."""

    session: ChatSession
    sampling: dict[str, Any]
    saved: set[Path] = field(default_factory=set)
    ended: bool = False

    def params(self) -> SamplingParams:
        """Sampling parameters of the next answer.

        Raises:
            InputError: a value is outside its range.
        """
        from longcat.stages.inference.sampling import SamplingParams

        return SamplingParams(**self.sampling)


def run_command(conversation: Conversation, line: str) -> None:
    """Run one command.

    Raises:
        InputError: the command is unknown, or cannot be done.
    """
    from longcat.pipeline.errors import InputError

    name, _, rest = line.partition(" ")
    if name not in COMMANDS:
        hint = "/help lists the commands; begin a message with // to say something that begins with /"
        raise InputError(f"unknown command {name[:40]}", hint=hint)
    run, usage, _ = COMMANDS[name]
    if rest.strip() and not usage:
        raise InputError(f"{name} takes nothing after it (found {rest.strip()[:40]!r})")
    run(conversation, rest.strip())


def _help(conversation: Conversation, rest: str) -> None:
    from longcat.cli.console import say

    for name, (_, usage, what) in COMMANDS.items():
        say(f"  {f'{name} {usage}':<22} {what}")
    say('  """ begins and ends a message of several lines; // begins a message that begins with /')
    say("  Ctrl-C stops an answer, or clears the line")


def _reset(conversation: Conversation, rest: str) -> None:
    conversation.session.reset()


def _exit(conversation: Conversation, rest: str) -> None:
    conversation.ended = True


def _system(conversation: Conversation, rest: str) -> None:
    from longcat.cli.console import say
    from longcat.cli.prompts import check_unicode

    session = conversation.session
    if not rest:
        say(session.system or "(no system prompt)")
        return
    check_unicode(rest, "/system")
    session.system = None if rest == EMPTY else rest


def _set(conversation: Conversation, rest: str) -> None:
    from longcat.cli.console import say
    from longcat.pipeline.errors import InputError

    if not rest:
        shown = conversation.params()
        say(", ".join(f"{name} {getattr(shown, name)}" for name in SETTABLE))
        return
    name, _, text = rest.partition(" ")
    if name not in SETTABLE:
        raise InputError(f"/set {name[:40]}: no such setting", hint=f"there are {', '.join(SETTABLE)}")
    before = dict(conversation.sampling)
    conversation.sampling[name] = _value(name, text.strip())
    try:
        conversation.params()
    except InputError:
        conversation.sampling = before
        raise


def _value(name: str, text: str) -> int | float | None:
    from longcat.pipeline.errors import InputError

    if name == "seed" and text == "none":
        return None
    try:
        return SETTABLE[name](text)
    except ValueError:
        kind = "a whole number" if SETTABLE[name] is int else "a number"
        raise InputError(f"/set {name}: {text[:40]!r} is not {kind}") from None


def _save(conversation: Conversation, rest: str) -> None:
    import json

    from longcat.cli.console import say
    from longcat.pipeline.errors import InputError
    from longcat.pipeline.files import atomic_write

    path = _path("/save", rest)
    if path.exists() and path.resolve() not in conversation.saved:
        raise InputError("exists already", where=str(path), hint="choose another name")
    messages = conversation.session.messages
    try:
        atomic_write(path, json.dumps({"messages": messages}, ensure_ascii=False, indent=2).encode() + b"\n")
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path)) from None
    conversation.saved.add(path.resolve())
    say(f"{len(messages)} messages in {path}")


def _load(conversation: Conversation, rest: str) -> None:
    from longcat.cli.console import say

    path = _path("/load", rest)
    messages = _read_messages(path)
    systems = [message["content"] for message in messages if message["role"] == "system"]
    conversation.session.system = systems[0] if systems else None
    conversation.session.turns[:] = [message for message in messages if message["role"] != "system"]
    say(f"{len(messages)} messages from {path}")


def _path(name: str, rest: str) -> Path:
    from longcat.pipeline.errors import InputError

    if not rest:
        raise InputError(f"{name} needs the name of a file")
    return Path(rest).expanduser()


def _read_messages(path: Path) -> list[dict[str, str]]:
    """Messages of a file as `/save` writes it: `{"messages": [{"role", "content"}, ...]}`, the system message first."""
    from longcat.pipeline.errors import InputError
    from longcat.pipeline.json_text import parse_json

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"is larger than {MAX_FILE_BYTES:,} bytes", where=str(path))
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path)) from None
    except ValueError as error:
        raise InputError(f"is not JSON: {error}", where=str(path)) from None
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list):
        raise InputError("has no list of messages", where=str(path), hint="/save writes such a file")
    return [_message(number, item, path) for number, item in enumerate(messages)]


def _message(number: int, item: Any, path: Path) -> dict[str, str]:
    from longcat.pipeline.errors import InputError

    def wrong(what: str) -> InputError:
        return InputError(f"message {number}: {what}", where=str(path))

    if not isinstance(item, dict) or item.keys() != {"role", "content"}:
        raise wrong("expected an object with role and content only")
    if item["role"] not in ROLES or not isinstance(item["content"], str):
        raise wrong(f"role is one of {', '.join(ROLES)}, content a text")
    if item["role"] == "system" and number > 0:
        raise wrong("only the first message can be of the system")
    return {"role": item["role"], "content": item["content"]}


Command = tuple[Callable[[Conversation, str], None], str, str]
COMMANDS: dict[str, Command] = {
    "/help": (_help, "", "list the commands"),
    "/reset": (_reset, "", "start again; the system prompt stays"),
    "/system": (_system, "[TEXT]", f"show or change the system prompt; {EMPTY} for none"),
    "/set": (_set, "[NAME VALUE]", f"show or change a setting: {', '.join(SETTABLE)}"),
    "/save": (_save, "FILE", "write the conversation to a new file"),
    "/load": (_load, "FILE", "go on with the conversation of a file"),
    "/exit": (_exit, "", "end the conversation"),
}
