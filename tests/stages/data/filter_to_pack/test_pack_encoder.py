"""The stage `data.pack` with either library: the same artifact, and a difference ends the run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.data import pack
from longcat.stages.data.pack import encode
from longcat.stages.formats.encoding import Encoded, Encoder

MakeDocuments = Callable[..., Artifact]


def corpus(prose: str) -> list[list[Document]]:
    texts = [*prose.split("\n"), "中文 and かな 〇", "</longcat_s>", "", "\x00\r\n  ", "👨‍👩‍👧"]
    documents = [Document(f"d{number}", text, "s") for number, text in enumerate(texts)]
    return [documents[:4], documents[4:]]


@pytest.fixture(autouse=True)
def fresh() -> None:
    encode._encoder.cache_clear()


def packed(session: Session, shards: list[list[Document]], make: MakeDocuments, **config: object) -> Artifact:
    documents = make(*shards, into=session)
    tokenizer = run_stage(session, "data.tokenizer", {"vocab_size": 300}, {"documents": documents}).artifact
    return run_stage(session, "data.pack", config, {"documents": documents, "tokenizer": tokenizer}).artifact


def test_the_library_changes_neither_id_nor_bytes(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    one = packed(session, corpus(prose), make_documents)
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=1))
    two = packed(other, corpus(prose), make_documents, encoder="tokenizers")
    assert (one.id, one.manifest.files) == (two.id, two.manifest.files)
    assert (one.manifest.counts, one.manifest.metrics) == (two.manifest.counts, two.manifest.metrics)
    ours, theirs = one.manifest.performance, two.manifest.performance
    assert [found["library"].split()[0] for found in ours["encoders"]] == ["gigatoken"]
    assert [found["library"].split()[0] for found in theirs["encoders"]] == ["tokenizers"]
    assert (ours["compared_documents"], theirs["compared_documents"]) == (4, 0)
    assert "gigatoken" in one.manifest.environment


def wrong(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make gigatoken's last id of every batch that holds `text` wrong."""
    right = Encoder.encode

    def encode_wrongly(self: Encoder, texts: Any) -> Encoded:
        found = right(self, texts)
        if text in texts and self.library == "gigatoken":
            found.ids[np.cumsum(found.lengths)[list(texts).index(text)] - 1] += 1
        return found

    monkeypatch.setattr(Encoder, "encode", encode_wrongly)


def test_a_difference_ends_the_run(
    session: Session, make_documents: MakeDocuments, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = corpus(prose)
    wrong(monkeypatch, shards[1][1].text)
    with pytest.raises(IntegrityError, match="document 'd5': gigatoken and tokenizers differ") as caught:
        packed(session, shards, make_documents)
    assert (caught.value.where or "").endswith("shard-00001.jsonl.zst")
    assert "encoder=tokenizers" in (caught.value.hint or "")
    packed(session, shards, make_documents, encoder="tokenizers")


def test_documents_to_compare_are_chosen_by_their_id(
    session: Session, make_documents: MakeDocuments, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "COMPARED_FIRST", 0)
    monkeypatch.setattr(encode, "COMPARED_OF", 2)
    shards = corpus(prose)
    expected = sum(encode.split_hash(item.id, 0) % 2 == 0 for shard in shards for item in shard if item.text)
    assert packed(session, shards, make_documents).manifest.performance["compared_documents"] == expected > 0


def test_gigatoken_must_support_the_tokenizer_if_it_is_chosen(
    session: Session, make_documents: MakeDocuments, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "longcat.stages.formats.encoding.giga", None)
    with pytest.raises(InputError, match="gigatoken cannot encode"):
        packed(session, corpus(prose), make_documents, encoder="gigatoken")


def test_records_of_an_older_version_have_no_encoder() -> None:
    one = {"encoder": {"library": "gigatoken 1"}, "compared": 2}
    other = {"encoder": {"library": "tokenizers 1", "reason": "gigatoken is not installed"}, "compared": 0}
    found = pack._encoding([{"documents": 1}, one, other, one])
    assert found == {"encoders": [one["encoder"], other["encoder"]], "compared_documents": 4}


def test_blocks_of_documents_are_joined_like_all_at_once(
    session: Session, make_documents: MakeDocuments, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = packed(session, corpus(prose), make_documents)
    monkeypatch.setattr(pack, "BLOCK_TOKENS", 40)
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=1))
    assert packed(other, corpus(prose), make_documents).manifest.files == one.manifest.files
