"""The begin token of documents, and the tokenizer files that state it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from longcat.pipeline.files import pretty_json, read_json

if TYPE_CHECKING:
    from longcat.stages.formats.tokenizer import Tokenizer


def document_begin(tokenizer: Tokenizer, begin_token: bool | None) -> tuple[int, ...]:
    """Ids before every document: the tokenizer's own with None."""
    if begin_token is False:
        return ()
    return tokenizer.begin_ids or ((tokenizer.bos_id,) if begin_token else ())


def changed_files(folder: Path, begin_token: bool | None) -> dict[str, bytes]:
    """Tokenizer files that must differ from those in `folder`, so that prompts begin as the documents do."""
    from longcat.stages.formats.begin_token import with_begin, without_begin
    from longcat.stages.formats.tokenizer import load_tokenizer, read_state

    if begin_token is None:
        return {}
    state = read_state(folder)
    tokenizer = load_tokenizer(folder, state)
    if bool(tokenizer.begin_ids) == begin_token:
        return {}
    named = tokenizer.bos_token
    state = with_begin(state, named, tokenizer.bos_id) if begin_token else without_begin(state)
    changed = {"tokenizer.json": pretty_json(state)}
    path = folder / "tokenizer_config.json"
    if path.is_file():
        changed["tokenizer_config.json"] = pretty_json({**read_json(path), "add_bos_token": begin_token})
    return changed
