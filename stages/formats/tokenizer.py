"""Trained tokenizer for training, evaluation, generation and serving; without transformers or code from disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.errors import InputError
from longcat.pipeline.json_text import parse_json
from longcat.stages.formats.begin_token import begin_ids
from longcat.stages.formats.chat_template import ChatTemplate
from longcat.stages.formats.published_templates import DEFAULT, WITH_TOOLS, read_templates
from longcat.stages.formats.tokenizer_backend import check_state, load_backend, one_line, panics_told
from longcat.stages.formats.tokenizer_config import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, read_object
from longcat.stages.formats.tokenizer_files import read_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

MAX_TOKENIZER_BYTES = 128 << 20
MAX_PROMPT_CHARACTERS = 16 << 20

NAMED_TOKENS = {"bos_token": "<longcat_s>", "eos_token": "</longcat_s>", "pad_token": "<longcat_pad>"}
# A Unicode noncharacter; it marks where a message contains the text of a special token.
_GUARD = "\ufdd0"

Message = Mapping[str, Any]


class Tokenizer:
    """Text to ids and back.

    Plain text never yields a special token, even if it contains its text. `encode_chat` produces them from the template
    and the assistant's turns, and `encode` where it is asked to.
    """

    def __init__(self, backend: Backend, special: Mapping[str, int], hidden: Iterable[int], named: Mapping[str, str]):
        """`special`: ids of the added tokens; `hidden`: those that `decode` may skip; `named`: bos_token, ..."""
        self._backend = backend
        self._special = dict(special)
        self._hidden = frozenset(hidden)
        self._named = dict(named)
        self._marks = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self._templates: dict[str, ChatTemplate] = {}

    @property
    def vocab_size(self) -> int:
        return int(self._backend.get_vocab_size())

    @property
    def bos_id(self) -> int:
        return self._special[self._named["bos_token"]]

    @property
    def bos_token(self) -> str:
        return self._named["bos_token"]

    @cached_property
    def begin_ids(self) -> tuple[int, ...]:
        """Ids that the tokenizer adds before a text, such as that of the begin token; usually none."""
        return begin_ids(self._backend)

    @property
    def eos_id(self) -> int:
        return self._special[self._named["eos_token"]]

    @property
    def pad_id(self) -> int:
        return self._special[self._named["pad_token"]]

    def special_id(self, token: str) -> int | None:
        """Id of an added token such as `<longcat_think>`, None if the tokenizer does not have it."""
        return self._special.get(token)

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Ids of plain text; nothing is added at either end.

        With `parse_special` the text of an added token becomes that token, as transformers does.

        Raises:
            InputError: the text contains a lone surrogate.
        """
        return self._parse(text, self._encode_between) if parse_special else self.encode_batch([text])[0]

    def encode_prompt(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Ids of a text to be continued: `encode`, after `begin_ids` unless it begins with them."""
        ids, begin = self.encode(text, parse_special=parse_special), list(self.begin_ids)
        return ids if ids[: len(begin)] == begin else begin + ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, in order."""
        try:
            with panics_told():
                encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:  # the backend's error for a text without UTF-8 form
            raise InputError("a text contains a lone surrogate, which is not a character") from None
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"the tokenizer fails on a text: {one_line(error)}") from None
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of ids. `skip_special` skips special tokens; bytes that are not UTF-8 become �."""
        chosen = [int(number) for number in ids]
        if skip_special:
            chosen = [number for number in chosen if number not in self._hidden]
        try:
            with panics_told():
                return str(self._backend.decode(chosen, skip_special_tokens=False))
        except OverflowError:
            raise InputError("a token id is not a number from 0 to 4294967295") from None
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"the tokenizer fails on ids: {one_line(error)}") from None

    def set_template(self, source: str) -> None:
        """Use `source` as the chat template, rendered in a sandboxed child process.

        Raises:
            InputError: it is not a Jinja template.
        """
        self.set_templates({DEFAULT: ChatTemplate(source)})

    def set_templates(self, templates: Mapping[str, ChatTemplate]) -> None:
        """Use these chat templates, by name (`formats.published_templates`)."""
        self._templates = dict(templates)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
        **template_kwargs: Any,
    ) -> str:
        """Render the prompt of a conversation: messages with `role` (system, user, assistant, tool) and `content`.

        `template_kwargs` are further variables of the template.

        Raises:
            InputError: there is no chat template, or it rejects these messages; a variable has a reserved name.
        """
        options = {"add_generation_prompt": add_generation_prompt, "enable_thinking": enable_thinking}
        return self._render(messages, tools, {**template_kwargs, **options}).replace(_GUARD, "")

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
        **template_kwargs: Any,
    ) -> list[int]:
        """Ids of `render_chat`, with special tokens in the template and the assistant's turns.

        User, tool and system messages, tools and variables are plain text, even if they contain the text of a special
        token.
        """
        guarded = [message if message.get("role") == "assistant" else self._guard(message) for message in messages]
        offered = self._guard(list(tools)) if tools else None
        options = {"add_generation_prompt": add_generation_prompt, "enable_thinking": enable_thinking}
        text = self._render(guarded, offered, {**self._guard(template_kwargs), **options})
        return self._parse(text, lambda part: self._encode_between(part.replace(_GUARD, "")))

    def _parse(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Ids of text in which the text of an added token is that token; what is between goes through `encode`."""
        ids: list[int] = []
        at = 0
        for mark in self._marks.finditer(text):
            ids += encode(text[at : mark.start()])
            ids.append(self._special[mark.group()])
            at = mark.end()
        return ids + encode(text[at:])

    def _encode_between(self, text: str) -> list[int]:
        return self.encode(text) if text else []

    def _guard(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._marks.sub(lambda mark: mark.group()[0] + _GUARD + mark.group()[1:], value)
        if isinstance(value, Mapping):
            return {self._guard(key): self._guard(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._guard(item) for item in value]
        return value

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, options: Mapping[str, Any]
    ) -> str:
        template = self._templates.get(WITH_TOOLS if tools and WITH_TOOLS in self._templates else DEFAULT)
        if template is None:
            named = f" named {DEFAULT!r}, only {', '.join(self._templates)}" if self._templates else ""
            hint = "use plain text, or add chat_template.jinja"
            raise InputError(f"this tokenizer has no chat template{named}", hint=hint)
        fixed = {"messages": list(messages), "tools": list(tools) if tools else None, **self._named}
        reserved = sorted(fixed.keys() & options.keys())
        if reserved:
            raise InputError(f"{', '.join(reserved)} cannot be set", where="chat_template_kwargs")
        values = {**options, **fixed}
        return template.render(values, MAX_PROMPT_CHARACTERS)


def load_tokenizer(folder: Path, state: Mapping[str, Any] | None = None) -> Tokenizer:
    """Load the tokenizer in `folder`: a tokenizer, tokens or checkpoint artifact, or any folder of that layout.

    `state` is what `read_state` returned for the folder, if it was called before.

    Raises:
        InputError: tokenizer.json is missing or unreadable, or a file is too large.
    """
    path = folder / "tokenizer.json"
    state = read_state(folder) if state is None else state
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    hidden = [token["id"] for token in state["added_tokens"] if token["special"]]
    # Only tokens marked special can be distinguished from plain text while encoding.
    tokens = [{**token, "special": True} for token in state["added_tokens"]]
    try:
        backend = load_backend({**state, "added_tokens": tokens})
    except ValueError as error:
        raise InputError(f"not a tokenizer: {error}", where=str(path)) from None
    backend.encode_special_tokens = True
    stated = read_object(folder / TOKENIZER_CONFIG)
    tokenizer = Tokenizer(backend, added, hidden, _named_tokens(folder, stated, added))
    tokenizer.set_templates(read_templates(folder, stated))
    return tokenizer


def read_state(folder: Path) -> dict[str, Any]:
    """Content of the tokenizer.json in `folder`, validated.

    Raises:
        InputError: it is missing, too large, or not a tokenizer.
    """
    path = folder / "tokenizer.json"
    data = read_file(path, MAX_TOKENIZER_BYTES)
    try:
        state = parse_json(data)
        check_state(state)
    except ValueError as error:
        raise InputError(f"not a tokenizer: {error}", where=str(path)) from None
    return dict(state)


def _named_tokens(folder: Path, stated: Mapping[str, Any], added: Mapping[str, int]) -> dict[str, str]:
    """Names of the begin, end and padding tokens, from `stated`, the content of tokenizer_config.json, or the older
    special_tokens_map.json."""
    older, named = read_object(folder / SPECIAL_TOKENS_MAP), {}
    for name, default in NAMED_TOKENS.items():
        path = folder / (TOKENIZER_CONFIG if stated.get(name) or not older.get(name) else SPECIAL_TOKENS_MAP)
        token = stated.get(name) or older.get(name) or default
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str):
            raise InputError(f"{name} is neither a string nor an object with `content`", where=str(path))
        if text not in added:
            where = str(path if name in stated or name in older else folder)
            raise InputError(f"the {name} {text[:80]!r} is not among the added tokens", where=where)
        named[name] = text
    return named
