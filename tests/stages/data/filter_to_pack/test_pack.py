"""The stage `data.pack`: token files that hold every document once, and that others can read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.pack import HASH_RANGE, validation_limit
from longcat.stages.data.pack.encode import split_hash
from longcat.stages.formats.special_tokens import TOKENIZER_FILES
from longcat.stages.formats.tokenizer import load_tokenizer

MakeDocuments = Callable[..., Artifact]


def corpus(prose: str) -> list[list[Document]]:
    lines = prose.split("\n")
    documents = [Document(f"d{number}", line * (number + 1), "s") for number, line in enumerate(lines)]
    return [documents[:3], [], [*documents[3:], Document("empty", "", "s"), Document("end", "</longcat_s>", "s")]]


@pytest.fixture
def tokenizer(session: Session, make_documents: MakeDocuments, prose: str) -> Artifact:
    return trained(session, make_documents(*corpus(prose)))


def trained(session: Session, documents: Artifact) -> Artifact:
    return run_stage(session, "data.tokenizer", {"vocab_size": 300}, {"documents": documents}).artifact


def packed(session: Session, documents: Artifact, tokenizer: Artifact, **config: object) -> Artifact:
    return run_stage(session, "data.pack", config, {"documents": documents, "tokenizer": tokenizer}).artifact


def texts(artifact: Artifact, prefix: str) -> list[str]:
    """Texts of the documents of a token file, which must each end with the end token and hold no other."""
    tokenizer = load_tokenizer(artifact.path)
    file = TokenFile(artifact.path / prefix)
    documents = [file.document(number).tolist() for number in range(file.n_documents)]
    assert all(ids.index(tokenizer.eos_id) == len(ids) - 1 for ids in documents)
    return [tokenizer.decode(ids[:-1]) for ids in documents]


def test_every_document_is_in_one_of_the_files_in_order(
    session: Session, make_documents: MakeDocuments, prose: str, tokenizer: Artifact
) -> None:
    shards = corpus(prose)
    artifact = packed(session, make_documents(*shards), tokenizer, validation_fraction=0.3)
    limit = int(0.3 * HASH_RANGE)
    given = [document for shard in shards for document in shard if document.text]
    expected = {True: [], False: []}
    for document in given:
        expected[split_hash(document.id, 0) <= limit].append(document.text)
    assert texts(artifact, "validation") == expected[True] != []
    assert texts(artifact, "train") == expected[False] != []


def test_counts_agree_with_the_files(
    session: Session, make_documents: MakeDocuments, prose: str, tokenizer: Artifact
) -> None:
    artifact = packed(session, make_documents(*corpus(prose)), tokenizer)
    counts, metrics = artifact.manifest.counts, artifact.manifest.metrics
    train, validation = (TokenFile(artifact.path / prefix) for prefix in ("train", "validation"))
    assert (counts["train_tokens"], counts["validation_tokens"]) == (train.total_tokens, validation.total_tokens)
    assert (counts["train_documents"], counts["validation_documents"]) == (train.n_documents, validation.n_documents)
    assert (counts["documents_in"], counts["documents_out"], counts["dropped"]) == (9, 8, {"empty": 1})
    assert metrics["bytes"] == sum(len(document.text.encode()) for shard in corpus(prose) for document in shard)
    assert train.dtype is np.uint16
    lengths = np.diff(train.document_offsets)
    assert sum(row["tokens"] for row in metrics["lengths"]) == train.total_tokens
    for row in metrics["lengths"]:
        assert row["documents"] == ((row["from"] <= lengths) & (lengths <= row["to"])).sum()


def test_the_tokenizer_comes_along(
    session: Session, make_documents: MakeDocuments, prose: str, tokenizer: Artifact
) -> None:
    artifact = packed(session, make_documents(*corpus(prose)), tokenizer)
    for name in TOKENIZER_FILES:
        assert artifact.file(name).read_bytes() == tokenizer.file(name).read_bytes()


def test_the_bytes_do_not_depend_on_the_workers(
    session: Session, make_documents: MakeDocuments, prose: str, tokenizer: Artifact
) -> None:
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=2))
    one = packed(session, make_documents(*corpus(prose)), tokenizer)
    documents = make_documents(*corpus(prose), into=other)
    two = packed(other, documents, trained(other, documents))
    assert two.path != one.path
    assert two.manifest.files == one.manifest.files


def test_megatron_reads_the_files(
    session: Session, make_documents: MakeDocuments, prose: str, tokenizer: Artifact
) -> None:
    reader = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed")
    artifact = packed(session, make_documents(*corpus(prose)), tokenizer)
    ours = TokenFile(artifact.path / "train")
    theirs = reader.IndexedDataset(str(artifact.path / "train"))
    assert len(theirs) == ours.n_documents == len(theirs.document_indices) - 1
    for number in range(ours.n_documents):
        np.testing.assert_array_equal(theirs[number], ours.document(number))


@pytest.mark.parametrize(
    ("hashes", "fraction", "limit"),
    [
        ([10, HASH_RANGE - 10], 0.5, HASH_RANGE // 2),
        ([HASH_RANGE - 20, HASH_RANGE - 10], 0.01, HASH_RANGE - 20),
        ([10, 20], 0.5, 19),
    ],
)
def test_neither_part_of_the_split_is_empty(hashes: list[int], fraction: float, limit: int) -> None:
    assert validation_limit(hashes, fraction) == limit


def test_the_split_follows_the_seed_and_the_fraction() -> None:
    ids = [f"document {number}" for number in range(4000)]
    limit = validation_limit([split_hash(item, 0) for item in ids], 0.1)
    chosen = [{item for item in ids if split_hash(item, seed) <= limit} for seed in (0, 1)]
    assert all(330 < len(part) < 470 for part in chosen)
    assert len(chosen[0] & chosen[1]) < 80


@pytest.mark.parametrize("shard", [[], ["x"], ["x", ""]])
def test_fewer_than_two_documents_are_refused(
    session: Session, make_documents: MakeDocuments, tokenizer: Artifact, shard: list[str]
) -> None:
    documents = make_documents([Document(f"d{n}", text, "s") for n, text in enumerate(shard)])
    with pytest.raises(InputError, match="one to train on and one to validate on"):
        packed(session, documents, tokenizer)


def test_documents_of_one_id_cannot_be_split(
    session: Session, make_documents: MakeDocuments, tokenizer: Artifact
) -> None:
    with pytest.raises(InputError, match="the same id"):
        packed(session, make_documents([Document("a", "x", "s"), Document("a", "y", "s")]), tokenizer)


def test_a_damaged_shard_is_named(
    session: Session, make_documents: MakeDocuments, prose: str, tokenizer: Artifact
) -> None:
    documents = make_documents(*corpus(prose))
    shard = document_shards(documents)[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(IntegrityError):
        packed(session, documents, tokenizer)


def test_a_fraction_out_of_range_is_refused(
    session: Session, make_documents: MakeDocuments, prose: str, tokenizer: Artifact
) -> None:
    with pytest.raises(ConfigError, match="validation_fraction"):
        packed(session, make_documents(*corpus(prose)), tokenizer, validation_fraction=0)
