"""Tokenizer for generation, with the bytes of every single token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.stages.formats.special_tokens import MARKUP
from longcat.stages.formats.tokenizer import Message, Tokenizer, load_tokenizer, read_state

# A Unicode noncharacter, which no text should contain.
TAG_MARK = "\ufdd0"
# Unicode NFC composes at most four characters into one.
NORMALISED_CHARACTERS = 4


@lru_cache(maxsize=1)
def byte_alphabet() -> Mapping[str, int]:
    """Character that represents each byte in byte-level tokenizers (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class EngineTokenizer:
    """Byte-level tokenizer with access to single tokens.

    `special_ids` are the tokens without text, such as the end of a document; `added_ids` are these and the tags of
    thoughts and tool calls, `thought_tags` those of the beginning and the end of a thought. `longest_token` is the
    maximum number of characters per token.
    """

    def __init__(self, tokenizer: Tokenizer, state: Mapping[str, Any]) -> None:
        """`state` is the content of tokenizer.json.

        Raises:
            InputError: it is not a byte-level tokenizer.
        """
        vocabulary = state["model"].get("vocab")
        if "ByteLevel" not in _kinds(state.get("decoder")) or not isinstance(vocabulary, dict):
            raise InputError("tokenizer.json has no byte-level decoder", hint="only byte-level BPE is supported")
        self._tokenizer = tokenizer
        added = {token["id"]: token for token in state["added_tokens"]}
        self.added_ids = frozenset(added)
        self._marked = {number: TAG_MARK.encode() for number, token in added.items() if token["content"] in MARKUP}
        ids = {token["content"]: number for number, token in added.items()}
        self.thought_tags = tuple(ids.get(tag) for tag in MARKUP[2:])
        self.special_ids = frozenset(number for number, token in added.items() if token["special"])
        self.eos_id = tokenizer.eos_id
        self._literal = {number: token["content"].encode() for number, token in added.items()}
        for text, number in vocabulary.items():
            self._literal.setdefault(number, _bytes_of(text))
        self.vocab_size = 1 + max(self._literal)
        self.longest_token = max(map(len, self._literal.values()))
        if state.get("normalizer") is not None:
            self.longest_token *= NORMALISED_CHARACTERS

    @classmethod
    def load(cls, folder: Path) -> EngineTokenizer:
        """Load the tokenizer in a folder with tokenizer.json.

        Raises:
            InputError: see `stages.formats.tokenizer.load_tokenizer`; or it is not a byte-level tokenizer.
        """
        tokenizer = load_tokenizer(folder)
        try:
            return cls(tokenizer, read_state(folder))
        except InputError as error:
            raise InputError(error.what, where=str(folder / "tokenizer.json"), hint=error.hint) from None

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """Ids of plain text, or with `parse_special` of text in which special tokens count as such.

        See `stages.formats.tokenizer.Tokenizer.encode`.

        Raises:
            InputError: the text contains a lone surrogate.
        """
        _check_unicode(text)
        return self._tokenizer.encode(text, parse_special=parse_special)

    def encode_prompt(self, text: str, parse_special: bool = False) -> list[int]:
        """`encode`, after the tokens that the tokenizer adds before a text, if any; raises as `encode`."""
        _check_unicode(text)
        return self._tokenizer.encode_prompt(text, parse_special=parse_special)

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, **template_kwargs: Any
    ) -> list[int]:
        """Ids of the prompt for the next turn; see `stages.formats.tokenizer.Tokenizer.encode_chat`."""
        return self._tokenizer.encode_chat(messages, tools=tools, **template_kwargs)

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, possibly a partial character; empty for special tokens and unknown ids."""
        return b"" if token_id in self.special_ids else self._literal.get(token_id, b"")

    def marked_bytes(self, token_id: int) -> bytes:
        """Like `token_bytes`, with `TAG_MARK` before the tags of thoughts and tool calls.

        A tag is thus told from its text in plain tokens, which a model may quote.
        """
        return self._marked.get(token_id, b"") + self.token_bytes(token_id)

    def literal_bytes(self, token_id: int) -> bytes:
        """Like `token_bytes`, with special tokens as text."""
        return self._literal.get(token_id, b"")

    def literal_text(self, ids: Iterable[int]) -> str:
        """Text of ids, with special tokens as text."""
        return b"".join(map(self.literal_bytes, ids)).decode("utf-8", "replace")

    def token_name(self, token_id: int) -> str:
        r"""One token as unambiguous text: bytes that are not valid UTF-8 read `bytes:\xe2\x82`, as in OpenAI's API."""
        data = self.literal_bytes(token_id)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _bytes_of(text: str) -> bytes:
    alphabet = byte_alphabet()
    # A token with characters outside the alphabet was added as plain text.
    return bytes(alphabet[character] for character in text) if set(text) <= alphabet.keys() else text.encode()


def _kinds(decoder: Any) -> set[str]:
    """Types of a decoder and of its components."""
    if not isinstance(decoder, dict):
        return set()
    return {str(decoder.get("type"))}.union(*map(_kinds, decoder.get("decoders", ())))


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the text is not valid Unicode (lone surrogate)") from None
