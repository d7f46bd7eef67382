"""What generation needs of a tokenizer beyond encoding: the bytes that every single token stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.stages.tokenizer import Message, Tokenizer, load_tokenizer, read_state

# The longest composition of Unicode's NFC makes one character of four.
NORMALISED_CHARACTERS = 4


@lru_cache(maxsize=1)
def byte_alphabet() -> Mapping[str, int]:
    """The character by which byte-level tokenizers write each byte (the table of GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class EngineTokenizer:
    """A byte-level tokenizer, token by token.

    `special_ids` are the tokens that stand for no text, such as the end of a document. `longest_token` bounds the
    characters of text that one token can stand for.
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
        """The tokenizer in a folder with tokenizer.json.

        Raises:
            InputError: see `stages.tokenizer.load_tokenizer`; or it is not a byte-level tokenizer.
        """
        tokenizer = load_tokenizer(folder)
        try:
            return cls(tokenizer, read_state(folder))
        except InputError as error:
            raise InputError(error.what, where=str(folder / "tokenizer.json"), hint=error.hint) from None

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; see `stages.tokenizer.Tokenizer.encode`.

        Raises:
            InputError: the text holds half of a surrogate pair.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError("the text is not valid Unicode (half of a surrogate pair)") from None
        return self._tokenizer.encode(text)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the prompt that asks for the next turn; see `stages.tokenizer.Tokenizer.encode_chat`."""
        return self._tokenizer.encode_chat(messages)

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, possibly half a character; nothing for special tokens and unknown ids."""
        return b"" if token_id in self.special_ids else self._literal.get(token_id, b"")

    def literal_bytes(self, token_id: int) -> bytes:
        """As `token_bytes`, with special tokens spelled out."""
        return self._literal.get(token_id, b"")

    def literal_text(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens spelled out."""
        return b"".join(map(self.literal_bytes, ids)).decode("utf-8", "replace")

    def token_name(self, token_id: int) -> str:
        r"""One token as text, unmistakably: bytes that are no characters read `bytes:\xe2\x82`, as OpenAI has it."""
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
    """Types of a decoder and of those it is made of."""
    if not isinstance(decoder, dict):
        return set()
    return {str(decoder.get("type"))}.union(*map(_kinds, decoder.get("decoders", ())))
