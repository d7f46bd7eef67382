"""Bytes of the text of every document of a token file, from its ids: a byte-level token always has the same bytes."""

from __future__ import annotations

import numpy as np

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.mixture.document_order import Numbers
from longcat.stages.formats.tokenizer import read_state

BLOCK_TOKENS = 1 << 22


def text_bytes(source: Artifact) -> Numbers:
    """UTF-8 bytes of the text of every training document, int64 [n]; read once, in blocks.

    Raises:
        InputError: the tokenizer is not byte-level.
        IntegrityError: the token file is damaged.
    """
    sizes, tokens = token_bytes(source), TokenFile(source.path / "train")
    offsets = tokens.document_offsets
    found = np.zeros(tokens.n_documents, dtype=np.int64)
    for start in range(0, tokens.total_tokens, BLOCK_TOKENS):
        end = min(start + BLOCK_TOKENS, tokens.total_tokens)
        # The documents with a part in the block: the first may begin before it.
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = int(np.searchsorted(offsets, end, side="left"))
        sums = np.concatenate([[0], np.cumsum(sizes[tokens.tokens[start:end]])])
        bounds = np.clip(offsets[first : last + 1], start, end) - start
        found[first:last] += np.diff(sums[bounds])
    return found


def token_bytes(source: Artifact) -> Numbers:
    """Bytes of every token, int64 [V]; 0 for special tokens.

    Raises:
        InputError: the tokenizer cannot be read, or is not byte-level.
    """
    state = read_state(source.path)
    decoder = state.get("decoder") or {}
    kinds = [part.get("type") for part in decoder.get("decoders", [decoder])]
    if kinds != ["ByteLevel"] or not isinstance(vocabulary := state["model"].get("vocab"), dict):
        raise InputError(
            "length_buckets.unit = bytes needs a byte-level tokenizer, whose tokens stand for bytes",
            where=str(source.path / "tokenizer.json"),
            hint="set length_buckets.unit=tokens",
        )
    added = {token["id"]: 0 if token["special"] else len(token["content"].encode()) for token in state["added_tokens"]}
    sizes = np.zeros(max(*vocabulary.values(), *added, 0) + 1, dtype=np.int64)
    for text, number in vocabulary.items():
        sizes[number] = len(text)  # a character for each byte
    for number, size in added.items():
        sizes[number] = size
    return sizes
