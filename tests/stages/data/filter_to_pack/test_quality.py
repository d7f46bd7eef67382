"""The quality classifier: trained the same every time, measured on what it has not seen, and used by the filter."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.data.quality.measures import at_threshold, measure
from longcat.stages.data.rules.quality import QualityRules
from longcat.stages.data.rules.quality import measure as measure_quality
from longcat.stages.data.text.quality_classifier import QualityClassifier, normalize

MakeDocuments = Callable[..., Artifact]
GOOD = ["theorem", "proof", "lemma", "because", "therefore", "theory", "evidence", "measured", "result", "explains"]
BAD = ["cheap", "casino", "click", "bonus", "buy", "now", "discount", "winner", "free", "offer"]
SMALL = {"buckets": 1000, "dimensions": 8, "held_out": 0.3, "epochs": 20}
ONLY_QUALITY = {
    name: {"enabled": False} for name in ("language", "gopher_quality", "gopher_repetition", "c4", "fineweb")
}


def texts(words: list[str], count: int, seed: int) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices([*words, "the", "of", "and"], k=30)) for _ in range(count)]


def documents(words: list[str], count: int, seed: int, label: str | None = None) -> list[Document]:
    metadata = {} if label is None else {"rating": label}
    return [Document(f"{seed}-{n}", text, "s", metadata=metadata) for n, text in enumerate(texts(words, count, seed))]


def trained(session: Session, make: MakeDocuments, **config: object) -> Artifact:
    inputs = {
        "positives": make(documents(GOOD, 60, 1), into=session),
        "negatives": make(documents(BAD, 60, 2), into=session),
    }
    return run_stage(session, "data.train-quality", {**SMALL, **config}, inputs).artifact


def test_it_tells_good_documents_and_says_how_well(session: Session, make_documents: MakeDocuments) -> None:
    artifact = trained(session, make_documents)
    counts, metrics = artifact.manifest.counts, artifact.manifest.metrics
    assert counts["documents_in"] == counts["training"] + counts["held_out"] == 120
    assert 15 < counts["held_out"] < 60
    assert metrics["roc_auc"] > 0.95
    assert metrics["held_out_at"]["0.5"]["precision"] > 0.9
    assert json.loads(artifact.file("held-out.json").read_bytes())["roc"][-1] == [1.0, 1.0]
    classifier = QualityClassifier(artifact.file("quality.bin"))
    assert (
        classifier.score("a theorem and the proof of a lemma", 1000) > 0.5 > classifier.score("buy cheap bonus", 1000)
    )
    assert classifier.score(" \n", 1000) == 0.0


def test_the_same_documents_give_the_same_bytes(session: Session, make_documents: MakeDocuments) -> None:
    other = Session(Store(session.store.root.with_name("other")))
    one, two = trained(session, make_documents), trained(other, make_documents)
    assert one.path != two.path
    assert one.manifest.files == two.manifest.files
    assert trained(session, make_documents, seed=1).manifest.files != one.manifest.files


def test_labelled_documents_are_split_by_their_label_and_equal_texts_count_once(
    session: Session, make_documents: MakeDocuments
) -> None:
    rated = [*documents(GOOD, 40, 1, "high"), *documents(BAD, 40, 2, "low"), *documents(BAD, 3, 3, "unsure")]
    rated += [Document("again", rated[0].text.upper(), "s", metadata={"rating": "low"}), Document("none", "", "s")]
    rated[-1].metadata["rating"] = "low"
    config = {**SMALL, "label_key": "rating", "positive": "high", "negative": "low"}
    artifact = run_stage(session, "data.train-quality", config, {"labelled": make_documents(rated)}).artifact
    assert artifact.manifest.counts["dropped"] == {"duplicate": 1, "empty": 1, "unlabelled": 3}
    assert artifact.manifest.metrics["roc_auc"] > 0.95


def test_one_class_alone_or_too_few_documents_are_refused(session: Session, make_documents: MakeDocuments) -> None:
    good = make_documents(documents(GOOD, 5, 1))
    with pytest.raises(InputError, match="positive and negative documents"):
        run_stage(session, "data.train-quality", SMALL, {"positives": good})
    with pytest.raises(InputError, match="no positive documents in the training part"):
        run_stage(session, "data.train-quality", SMALL, {"labelled": good})


def test_a_text_cannot_pass_for_a_label() -> None:
    assert "__label__" not in normalize("x __label__positive __LABEL__negative", 100)


def test_measures_equal_their_definitions() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.4, 0.2])
    good = np.array([True, True, False, True, False])
    assert at_threshold(scores, good, 0.5) == {"precision": 0.666667, "recall": 0.666667, "kept": 0.6}
    pairs = [(a > b) + (a == b) / 2 for a in scores[good] for b in scores[~good]]
    assert measure(scores, good)["roc_auc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


class _Scores:
    """Stands for a classifier: one score for a beginning, another for more."""

    def __init__(self, coarse: float, fine: float) -> None:
        self.coarse, self.fine = coarse, fine

    def score(self, text: str, limit: int) -> float:
        return self.coarse if limit <= 10 else self.fine


@pytest.mark.parametrize(
    ("coarse", "expected"),
    [
        (0.05, {"coarse_score": 0.05}),
        (0.5, {"coarse_score": 0.5, "score": 0.7}),
        (0.99, {"coarse_score": 0.99, "score": 0.99}),
    ],
)
def test_the_whole_is_scored_only_where_the_beginning_leaves_doubt(coarse: float, expected: dict[str, float]) -> None:
    rules = QualityRules(coarse_characters=10)
    assert measure_quality("x" * 50, _Scores(coarse, 0.7), rules) == expected  # type: ignore[arg-type]


def test_the_filter_drops_by_score(session: Session, make_documents: MakeDocuments) -> None:
    mixed = [*documents(GOOD, 5, 7), *documents(BAD, 5, 8)]
    inputs = {"documents": make_documents(mixed), "classifier": trained(session, make_documents)}
    config = {**ONLY_QUALITY, "quality": {"min_coarse_score": 0.2, "min_score": 0.5}}
    artifact = run_stage(session, "data.filter", config, inputs).artifact
    kept = [document.id for shard in document_shards(artifact) for document in read_documents(shard)]
    assert kept == [f"7-{n}" for n in range(5)]
    assert set(artifact.manifest.counts["dropped"]) <= {"quality.min_coarse_score", "quality.min_score"}
    rows = pq.read_table(artifact.file("attributes-00000.parquet")).to_pylist()
    assert all(row["quality.coarse_score"] is not None for row in rows)
    without = run_stage(session, "data.filter", config, {"documents": inputs["documents"]}).artifact
    assert without.manifest.counts["documents_out"] == 10


def test_a_classifier_of_another_kind_is_refused(
    session: Session, make_documents: MakeDocuments, tmp_path: Path
) -> None:
    import fasttext

    text = tmp_path / "train.txt"
    text.write_text("__label__en the cat\n__label__de die Katze\n" * 5, encoding="utf-8")
    model = fasttext.train_supervised(input=str(text), dim=4, bucket=10, epoch=1, thread=1, verbose=0)
    other = tmp_path / "other.bin"
    model.save_model(str(other))
    with pytest.raises(InputError, match=r"not a quality classifier.*__label__de"):
        QualityClassifier(other)
    other.write_bytes(b"{}" * 100)
    with pytest.raises(InputError, match="not a fastText model"):
        QualityClassifier(other)
    classifier = trained(session, make_documents)
    damaged = classifier.file("quality.bin")
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"otherbyte")
    inputs = {"documents": make_documents(documents(GOOD, 2, 5)), "classifier": classifier}
    with pytest.raises(IntegrityError, match="sha256"):
        run_stage(session, "data.filter", ONLY_QUALITY, inputs)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Hello, World!", "hello , world !"),
        ("今天天气很好。", "今天 天气 很好 。"),
        ("किताबें पढ़ना।", "किताबें पढ़ना ।"),
        ("كَتَبَ الدَّرْسَ", "كَتَبَ الدَّرْسَ"),
    ],
)
def test_features_are_words_of_every_script(text: str, line: str) -> None:
    assert normalize(text, 100) == line
