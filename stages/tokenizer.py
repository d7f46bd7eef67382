"""A trained tokenizer as training, evaluation, generation and serving use it: no transformers, no code from disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import open_input
from longcat.pipeline.json_text import parse_json
from longcat.stages.chat_template import ChatTemplate
from longcat.stages.tokenizer_backend import check_state, load_backend, one_line, panics_told

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

MAX_TOKENIZER_BYTES = 128 << 20
MAX_TEMPLATE_BYTES = 256 << 10
MAX_PROMPT_CHARACTERS = 16 << 20

NAMED_TOKENS = {"bos_token": "<longcat_s>", "eos_token": "</longcat_s>", "pad_token": "<longcat_pad>"}
# Unicode keeps this for use inside programs; it marks where a message spells out a special token.
_GUARD = "\ufdd0"

Message = Mapping[str, Any]


class Tokenizer:
    """Text to ids and back.

    Plain text never yields a special token, even where it spells one out; only `encode_chat` makes them, from the
    template and from what the assistant itself said.
    """

    def __init__(self, backend: Backend, special: Mapping[str, int], hidden: Iterable[int], named: Mapping[str, str]):
        """`special`: ids of the added tokens; `hidden`: those that `decode` may leave out; `named`: bos_token, ..."""
        self._backend = backend
        self._special = dict(special)
        self._hidden = frozenset(hidden)
        self._named = dict(named)
        self._marks = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self._template: ChatTemplate | None = None

    @property
    def vocab_size(self) -> int:
        return int(self._backend.get_vocab_size())

    @property
    def bos_id(self) -> int:
        return self._special[self._named["bos_token"]]

    @property
    def eos_id(self) -> int:
        return self._special[self._named["eos_token"]]

    @property
    def pad_id(self) -> int:
        return self._special[self._named["pad_token"]]

    def special_id(self, token: str) -> int | None:
        """Id of an added token such as `<longcat_think>`, None where the tokenizer has none of that name."""
        return self._special.get(token)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; nothing is added at either end.

        Raises:
            InputError: the text holds half of a surrogate pair, which is no character.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, in order."""
        try:
            with panics_told():
                encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:  # what the backend makes of a text without UTF-8 form
            raise InputError("a text holds half of a surrogate pair, which is no character") from None
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"the tokenizer fails on a text: {one_line(error)}") from None
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of ids. `skip_special` leaves out the tokens that are no content; bytes that are no UTF-8 become �."""
        chosen = [int(number) for number in ids]
        if skip_special:
            chosen = [number for number in chosen if number not in self._hidden]
        try:
            with panics_told():
                return str(self._backend.decode(chosen, skip_special_tokens=False))
        except OverflowError:
            raise InputError("a token id is no number from 0 to 4294967295") from None
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"the tokenizer fails on ids: {one_line(error)}") from None

    def set_template(self, source: str) -> None:
        """Take `source` as the chat template, to be run in a sandbox in a process of its own.

        Raises:
            InputError: it is not a Jinja template.
        """
        self._template = ChatTemplate(source)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
    ) -> str:
        """The prompt of a conversation: messages with `role` (system, user, assistant, tool) and `content`.

        Raises:
            InputError: there is no chat template, or it refuses these messages.
        """
        return self._render(messages, tools, add_generation_prompt, enable_thinking).replace(_GUARD, "")

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
    ) -> list[int]:
        """Ids of `render_chat`, with the special tokens of the template and of the assistant's turns as such.

        What users, tools and the system prompt say stays plain text, even where it spells a special token.
        """
        guarded = [message if message.get("role") == "assistant" else self._guard(message) for message in messages]
        offered = self._guard(list(tools)) if tools else None
        text = self._render(guarded, offered, add_generation_prompt, enable_thinking)
        ids: list[int] = []
        at = 0
        for mark in self._marks.finditer(text):
            ids += self._encode_between(text[at : mark.start()])
            ids.append(self._special[mark.group()])
            at = mark.end()
        return ids + self._encode_between(text[at:])

    def _encode_between(self, text: str) -> list[int]:
        return self.encode(text.replace(_GUARD, "")) if text else []

    def _guard(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._marks.sub(lambda mark: mark.group()[0] + _GUARD + mark.group()[1:], value)
        if isinstance(value, Mapping):
            return {key: self._guard(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._guard(item) for item in value]
        return value

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        enable_thinking: bool,
    ) -> str:
        if self._template is None:
            raise InputError("this tokenizer has no chat template", hint="give plain text, or add chat_template.jinja")
        values = {
            "messages": list(messages),
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
            "enable_thinking": enable_thinking,
            **self._named,
        }
        return self._template.render(values, MAX_PROMPT_CHARACTERS)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer in `folder`: a tokenizer, tokens or checkpoint artifact, or any folder of that layout.

    Raises:
        InputError: tokenizer.json is missing or unreadable, or a file is beyond all reason large.
    """
    path = folder / "tokenizer.json"
    state = read_state(folder)
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    hidden = [token["id"] for token in state["added_tokens"] if token["special"]]
    # Only tokens marked special can be told apart from plain text while encoding.
    tokens = [{**token, "special": True} for token in state["added_tokens"]]
    try:
        backend = load_backend({**state, "added_tokens": tokens})
    except ValueError as error:
        raise InputError(f"not a tokenizer: {error}", where=str(path)) from None
    backend.encode_special_tokens = True
    tokenizer = Tokenizer(backend, added, hidden, _named_tokens(folder, added))
    template = folder / "chat_template.jinja"
    if template.is_file():
        try:
            tokenizer.set_template(_read(template, MAX_TEMPLATE_BYTES).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8 (byte {error.start})", where=str(template)) from None
        except InputError as error:
            raise InputError(error.what, where=error.where or str(template), hint=error.hint) from None
    return tokenizer


def read_state(folder: Path) -> dict[str, Any]:
    """The content of the tokenizer.json in `folder`, its parts checked.

    Raises:
        InputError: it is missing, too large, or no tokenizer.
    """
    path = folder / "tokenizer.json"
    data = _read(path, MAX_TOKENIZER_BYTES)
    try:
        state = parse_json(data)
        check_state(state)
    except ValueError as error:
        raise InputError(f"not a tokenizer: {error}", where=str(path)) from None
    return dict(state)


def _named_tokens(folder: Path, added: Mapping[str, int]) -> dict[str, str]:
    """What the folder calls its begin, end and padding tokens."""
    path = folder / "tokenizer_config.json"
    try:
        stated = parse_json(_read(path, MAX_TOKENIZER_BYTES)) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where=str(path)) from None
    if not isinstance(stated, dict):
        raise InputError("is no JSON object", where=str(path))
    named = {}
    for name, default in NAMED_TOKENS.items():
        token = stated.get(name) or default
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str):
            raise InputError(f"{name} is neither a text nor an object with `content`", where=str(path))
        if text not in added:
            where = str(path if name in stated else folder)
            raise InputError(f"the {name} {text[:80]!r} is not among the added tokens", where=where)
        named[name] = text
    return named


def _read(path: Path, limit: int) -> bytes:
    if not path.is_file():
        if path.exists():
            raise InputError("is no regular file", where=str(path))
        hint = "a tokenizer, tokens or checkpoint artifact is needed"
        raise InputError("the file is missing", where=str(path), hint=hint)
    with open_input(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path.stat().st_size} bytes, the limit is {limit}", where=str(path))
    return data
