"""Several documents artifacts at once: order, ids, counts by input, and the same bytes for any number of workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from longcat.pipeline import document_inputs
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.lineage import lineage
from longcat.pipeline.recipe import load_recipe, plan_recipe, run_steps
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.inspect.report import report
from longcat.stages.formats.tokenizer import load_tokenizer

MakeDocuments = Callable[..., Artifact]
RULES_OFF = {
    family: {"enabled": False} for family in ("language", "gopher_quality", "gopher_repetition", "c4", "fineweb")
}


def other(prose: str, word: str) -> str:
    """Prose of other words."""
    return "\n".join(" ".join(f"{part}{word}" for part in line.split()) for line in prose.split("\n"))


@pytest.fixture
def two(make_documents: MakeDocuments, prose: str) -> tuple[Artifact, Artifact]:
    """Two artifacts with the id `same` in both; `copy` has the text of `first`."""
    one = make_documents({"first": prose, "same": other(prose, "a")}, {"more": other(prose, "b")})
    another = make_documents({"copy": prose, "same": other(prose, "c")})
    return one, another


def ids(artifact: Artifact) -> list[list[str]]:
    return [[document.id for document in read_documents(shard)] for shard in document_shards(artifact)]


def test_the_filter_reads_all_of_them_in_order(session: Session, two: tuple[Artifact, Artifact]) -> None:
    one, another = two
    made = run_stage(session, "data.filter", RULES_OFF, {"documents": [one, another]}).artifact
    assert ids(made) == [["first", f"same@{one.id}"], ["more"], ["copy", f"same@{another.id}"]]
    assert made.manifest.counts == {
        "documents_in": 5,
        "documents_out": 5,
        "dropped": {},
        "inputs": [
            {"id": one.id, "documents_in": 3, "documents_out": 3},
            {"id": another.id, "documents_in": 2, "documents_out": 2},
        ],
    }
    assert made.manifest.metrics["ids_in_several_inputs"] == 1
    assert [node["id"] for node in lineage(session.store, made)["inputs"]] == [one.id, another.id]
    turned = run_stage(session, "data.filter", RULES_OFF, {"documents": [another, one]}).artifact
    assert ids(turned) == [["copy", f"same@{another.id}"], ["first", f"same@{one.id}"], ["more"]]
    assert turned.id != made.id


def test_one_input_keeps_its_ids_and_counts(session: Session, two: tuple[Artifact, Artifact]) -> None:
    made = run_stage(session, "data.filter", RULES_OFF, {"documents": [two[1]]}).artifact
    assert ids(made) == [["copy", "same"]]
    assert "inputs" not in made.manifest.counts
    assert "ids_in_several_inputs" not in made.manifest.metrics


def test_inspect_shows_texts_of_every_input(session: Session, two: tuple[Artifact, Artifact]) -> None:
    config = {**RULES_OFF, "gopher_quality": {"enabled": True, "min_words": 10_000}}
    made = run_stage(session, "data.filter", config, {"documents": list(two)}).artifact
    found = report(made, list(two), examples=9)
    (rule,) = found["rules"]
    shown = {example["id"]: example["text"].split()[1] for example in rule["dropped_examples"]}
    assert shown == {
        "first": "river",
        f"same@{two[0].id}": "rivera",
        "more": "riverb",
        "copy": "river",
        f"same@{two[1].id}": "riverc",
    }


def test_duplicates_are_found_across_inputs(session: Session, two: tuple[Artifact, Artifact]) -> None:
    one, another = two
    made = run_stage(session, "data.dedup", {}, {"documents": [one, another]}).artifact
    assert ids(made) == [[f"same@{one.id}"], ["more"], ["copy", f"same@{another.id}"]]
    rows = pq.read_table(made.file("duplicates.parquet")).to_pylist()
    assert [(row["dropped_id"], row["kept_id"], row["kind"]) for row in rows] == [("first", "copy", "exact")]
    assert made.manifest.counts["inputs"] == [
        {"id": one.id, "documents_in": 3, "documents_out": 2},
        {"id": another.id, "documents_in": 2, "documents_out": 2},
    ]


def test_equal_documents_with_equal_ids_are_told_apart(
    session: Session, make_documents: MakeDocuments, prose: str
) -> None:
    one, another = make_documents({"x": prose}), make_documents({"x": prose, "y": "short"})
    made = run_stage(session, "data.dedup", {}, {"documents": [one, another]}).artifact
    (row,) = pq.read_table(made.file("duplicates.parquet")).to_pylist()
    kept, dropped = sorted((f"x@{one.id}", f"x@{another.id}"))
    assert (row["dropped_id"], row["kept_id"]) == (dropped, kept)


def test_ids_are_compared_in_ranges(
    session: Session, make_documents: MakeDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_inputs, "IDS_A_STEP", 7)
    one = make_documents({f"a{n}": f"text {n}" for n in range(30)}, {f"b{n}": f"words {n}" for n in range(9)})
    another = make_documents({f"a{n}": f"other {n}" for n in range(25, 40)}, {"b3": "b"}, [])
    third = make_documents([])
    made = run_stage(session, "data.filter", RULES_OFF, {"documents": [one, another, third]}).artifact
    renamed = sorted(name for shard in ids(made) for name in shard if "@" in name)
    both = [*(f"a{n}" for n in range(25, 30)), "b3"]
    assert renamed == sorted(f"{name}@{artifact.id}" for name in both for artifact in (one, another))
    assert made.manifest.metrics["ids_in_several_inputs"] == 6
    assert made.manifest.counts["inputs"][2] == {"id": third.id, "documents_in": 0, "documents_out": 0}


def test_decontaminate_names_the_document_of_each_input(
    session: Session, two: tuple[Artifact, Artifact], tmp_path: Path, prose: str
) -> None:
    item = other(prose, "c").split("\n")[2]
    (tmp_path / "quiz.jsonl").write_text(f'{{"question": "{item}"}}\n')
    config = {"benchmarks": [f"{tmp_path / 'quiz.jsonl'}:question"]}
    made = run_stage(session, "data.decontaminate", config, {"documents": list(two)}).artifact
    (row,) = pq.read_table(made.file("findings.parquet")).to_pylist()
    assert row["document"] == f"same@{two[1].id}"
    assert [entry["documents_out"] for entry in made.manifest.counts["inputs"]] == [3, 1]


def test_tokenizer_and_pack_read_all_of_them(session: Session, two: tuple[Artifact, Artifact]) -> None:
    one, another = two
    tokenizer = run_stage(session, "data.tokenizer", {"vocab_size": 300}, {"documents": [one, another]}).artifact
    assert tokenizer.manifest.counts["documents_in"] == 5
    assert tokenizer.manifest.counts["inputs"] == [{"id": one.id, "documents": 3}, {"id": another.id, "documents": 2}]
    scores = run_stage(session, "data.score", {}, {"documents": [another, one]}).artifact
    assert scores.manifest.counts["inputs"] == [{"id": another.id, "documents": 2}, {"id": one.id, "documents": 3}]
    given = {"documents": [one, another], "tokenizer": tokenizer, "scores": scores}
    tokens = run_stage(session, "data.pack", {"validation_fraction": 0.3}, given).artifact
    assert tokens.manifest.counts["inputs"] == [
        {"id": one.id, "documents": 3, "empty": 0},
        {"id": another.id, "documents": 2, "empty": 0},
    ]
    decode = load_tokenizer(tokens.path).decode
    written = {}
    for split in ("train", "validation"):
        file = TokenFile(tokens.path / split)
        written[split] = [decode(file.document(number)[:-1].tolist()) for number in range(file.n_documents)]
    texts = [d.text for artifact in two for shard in document_shards(artifact) for d in read_documents(shard)]
    assert sorted(written["train"] + written["validation"]) == sorted(texts)
    assert written["train"] == [text for text in texts if text in written["train"]]
    assert pq.read_table(tokens.file("train.scores.parquet")).num_rows == len(written["train"])


def test_train_quality_counts_by_input(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    good = [make_documents({f"g{k}{n}": other(prose, f"g{k}{n}") for n in range(12)}) for k in range(2)]
    bad = make_documents({f"b{n}": f"buy now cheap {n} " * 30 for n in range(12)})
    config = {"held_out": 0.3, "epochs": 2, "dimensions": 2, "buckets": 10}
    made = run_stage(session, "data.train-quality", config, {"positives": good, "negatives": [bad]}).artifact
    assert made.manifest.counts["inputs"] == [
        {"id": good[0].id, "role": "positives", "documents": 12},
        {"id": good[1].id, "role": "positives", "documents": 12},
        {"id": bad.id, "role": "negatives", "documents": 12},
    ]


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path, make_documents: MakeDocuments, prose: str) -> None:
    found = []
    for workers in (1, 3):
        session = Session(Store(tmp_path / str(workers)), LocalEngine(workers))
        first = make_documents({"x": prose, "y": other(prose, "y")}, {"z": other(prose, "z")}, into=session)
        second = make_documents({"x": prose}, {"y": other(prose, "v")}, into=session)
        config = {"paragraphs": {"enabled": True}}
        made = run_stage(session, "data.dedup", config, {"documents": [first, second]}).artifact
        found.append((made.id, made.manifest.files, made.manifest.counts))
    assert found[0] == found[1]


def test_a_recipe_takes_several(session: Session, tmp_path: Path, two: tuple[Artifact, Artifact]) -> None:
    path = tmp_path / "several.yaml"
    path.write_text(
        "name: several\n"
        "steps:\n"
        f"  left: {{stage: data.dedup, inputs: {{documents: {two[0].id}}}}}\n"
        f"  both: {{stage: data.dedup, inputs: {{documents: [left, {two[1].id}]}}}}\n"
    )
    outcomes = run_steps(plan_recipe(load_recipe(path), session.store), session)
    assert [outcome.artifact.manifest.counts["documents_in"] for outcome in outcomes] == [3, 5]
    inputs = outcomes[1].artifact.manifest.inputs["documents"]
    assert [(item.id, item.name) for item in inputs] == [(outcomes[0].artifact.id, "left"), (two[1].id, None)]
