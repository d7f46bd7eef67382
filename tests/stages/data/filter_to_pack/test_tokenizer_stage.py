"""The stage `data.tokenizer`: what it learns, that it is the same every time, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.files import read_json
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.data.tokenizer.sample import MeasureTask, choose, measure_shard, texts_between
from longcat.stages.formats.special_tokens import SPECIAL_TOKENS, TOKENIZER_FILES
from longcat.stages.formats.tokenizer import load_tokenizer

MakeDocuments = Callable[..., Artifact]
VOCABULARY = 320


def corpus(prose: str) -> list[list[Document]]:
    """Three shards of a document a line."""
    lines = prose.split("\n") * 3
    documents = [Document(f"d{number}", f"{line} {number}", "s") for number, line in enumerate(lines)]
    return [documents[start::3] for start in range(3)]


def trained(session: Session, documents: Artifact, **config: object) -> Artifact:
    return run_stage(session, "data.tokenizer", {"vocab_size": VOCABULARY} | config, {"documents": documents}).artifact


@pytest.fixture
def artifact(session: Session, make_documents: MakeDocuments, prose: str) -> Artifact:
    return trained(session, make_documents(*corpus(prose)))


def test_special_tokens_have_their_fixed_ids(artifact: Artifact) -> None:
    vocabulary = read_json(artifact.file("tokenizer.json"))["model"]["vocab"]
    assert [vocabulary[token] for token in SPECIAL_TOKENS] == list(range(11))
    assert SPECIAL_TOKENS[:4] == ("<longcat_unk>", "<longcat_s>", "</longcat_s>", "<longcat_pad>")
    assert {"<longcat_tool_call>", "</longcat_think>", "<longcat_user>"} <= set(SPECIAL_TOKENS[4:])
    assert read_json(artifact.file("generation_config.json")) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }


def test_the_vocabulary_has_the_size_asked_for_and_is_measured(artifact: Artifact) -> None:
    tokenizer = load_tokenizer(artifact.path)
    metrics = artifact.manifest.metrics
    assert tokenizer.vocab_size == metrics["vocab_size"] == VOCABULARY
    assert metrics["merges"] == VOCABULARY - 11 - 256
    assert artifact.manifest.counts == {"documents_in": 21, "documents_trained": 20, "documents_held_out": 1}
    assert metrics["held_out_bytes_per_token"] == round(metrics["held_out_bytes"] / metrics["held_out_tokens"], 4) > 1


def test_all_files_are_written(artifact: Artifact) -> None:
    assert sorted(entry.path for entry in artifact.manifest.files) == sorted(TOKENIZER_FILES)


def test_neither_the_order_of_the_shards_nor_a_new_run_moves_a_byte(
    session: Session, make_documents: MakeDocuments, prose: str, artifact: Artifact
) -> None:
    again = trained(session, make_documents(*[shard[::-1] for shard in corpus(prose)[::-1]]))
    assert again.path != artifact.path
    assert again.manifest.files == artifact.manifest.files


def test_the_number_of_threads_moves_no_byte(tmp_path: Path, prose: str) -> None:
    script = (
        "import sys\nfrom longcat.stages.data.tokenizer.bpe import train\n"
        "from longcat.stages.data.tokenizer.config import *\n"
        "texts = [sys.argv[1][i:] for i in range(0, 600, 2)]\n"
        "print(train(texts, TokenizerConfig(vocab_size=600)).to_str())"
    )
    results = []
    for threads in ("1", "3"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, "-c", script, prose]
        results.append(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert results[0] == results[1] != b""


def test_too_large_a_vocabulary_tells_how_many_merges_there_were(
    session: Session, make_documents: MakeDocuments, prose: str
) -> None:
    documents = make_documents(*corpus(prose))
    with pytest.raises(InputError, match=r"yield \d+ merges, a vocabulary of 50000 needs 49733") as caught:
        trained(session, documents, vocab_size=50_000)
    largest = int(caught.value.hint.split("vocab_size to ")[1].split()[0])
    assert trained(session, documents, vocab_size=largest).manifest.metrics["vocab_size"] == largest


def test_a_vocabulary_below_the_bytes_is_refused(session: Session, make_documents: MakeDocuments) -> None:
    with pytest.raises(ConfigError, match="vocab_size"):
        trained(session, make_documents([Document("a", "x", "s")]), vocab_size=200)


def test_an_input_without_documents_is_refused(session: Session, make_documents: MakeDocuments) -> None:
    with pytest.raises(InputError, match="no documents"):
        trained(session, make_documents([]))


def test_min_frequency_keeps_rare_pairs_out(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    documents = make_documents(*corpus(prose))
    with pytest.raises(InputError, match="merges"):
        trained(session, documents, min_frequency=1000)


@pytest.fixture
def measured(make_documents: MakeDocuments, prose: str, tmp_path: Path) -> list[MeasureTask]:
    artifact = make_documents(*corpus(prose))
    tasks = [MeasureTask(path, tmp_path / f"{path.name}.npy", 0) for path in sorted(artifact.path.glob("*.zst"))]
    for task in tasks:
        measure_shard(task)
    return tasks


def test_the_sample_has_the_bytes_asked_for_and_nothing_held_out(measured: list[MeasureTask]) -> None:
    sample = choose([task.sizes for task in measured], sample_bytes=1000, held_out_bytes=500)
    shards = [task.shard for task in measured]
    trained_on = list(texts_between(shards, 0, 0, sample.last_trained))
    held_out = list(texts_between(shards, 0, sample.first_held_out, (1 << 64) - 1))
    assert sample.trained_bytes == sum(map(len, trained_on)) <= 1000 < sample.trained_bytes + 120
    assert sample.trained_documents == len(trained_on)
    assert sample.held_out_bytes == sum(map(len, held_out))
    assert not set(trained_on) & set(held_out)


def test_one_document_is_trained_on_and_nothing_held_out(
    session: Session, make_documents: MakeDocuments, prose: str
) -> None:
    artifact = trained(session, make_documents([Document("a", prose, "s")]))
    assert artifact.manifest.counts["documents_held_out"] == 0
    assert artifact.manifest.metrics["held_out_bytes_per_token"] is None
