"""Tokenizer files in the format of transformers, vLLM and SGLang."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.files import atomic_write, pretty_json
from longcat.stages.formats.special_tokens import (
    BEGIN,
    BEGIN_ID,
    END,
    END_ID,
    MARKUP,
    PAD,
    PAD_ID,
    SPECIAL_TOKENS,
    UNKNOWN,
)
from longcat.stages.formats.tokenizer_config import EXPLICIT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMED_TOKENS = {"bos_token": BEGIN, "eos_token": END, "unk_token": UNKNOWN, "pad_token": PAD}
MODEL_MAX_LENGTH = 131_072
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja and
    generation_config.json."""
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        # Tool calls and thoughts are content: decoding without special tokens must keep them for the parser.
        token["special"] = token["content"] not in MARKUP
    atomic_write(folder / "tokenizer.json", pretty_json(state))
    atomic_write(folder / "tokenizer_config.json", pretty_json(_tokenizer_config()))
    atomic_write(folder / "special_tokens_map.json", pretty_json(NAMED_TOKENS))
    atomic_write(folder / "chat_template.jinja", CHAT_TEMPLATE.read_bytes())
    ids = {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID, "pad_token_id": PAD_ID}
    atomic_write(folder / "generation_config.json", pretty_json(ids))


def _tokenizer_config() -> dict[str, Any]:
    shape = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    decoder = {
        str(number): {"content": token, **shape, "special": token not in MARKUP}
        for number, token in enumerate(SPECIAL_TOKENS)
    }
    return {
        **EXPLICIT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **NAMED_TOKENS,
        "added_tokens_decoder": decoder,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MODEL_MAX_LENGTH,
    }
