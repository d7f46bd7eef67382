"""Stages of a curriculum: their content, caps over all stages, and the order of training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.formats.curriculum import read_curriculum
from longcat.stages.formats.training_windows import training_windows
from longcat.stages.formats.windows import TokenWindows, Window, batch, open_tokens

Mix = Callable[..., Artifact]
Read = Callable[..., list[list[int]]]

STAGES = [
    {"name": "general", "share": 0.5, "weights": [8, 1, 1]},
    {"name": "focused", "share": 0.3, "weights": [3, 5, 2]},
    {"name": "long", "share": 0.2, "weights": [0, 5, 5], "min_document_tokens": [0, 100, 500]},
]


@pytest.fixture
def curriculum(three: list[Artifact], mixed: Mix) -> Artifact:
    return mixed(three, stages=STAGES, token_budget=6000, labels=["web", "stem", "code"])


def test_every_stage_has_its_own_shares_in_order(curriculum: Artifact, documents: Read) -> None:
    stages = json.loads(curriculum.file("curriculum.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["general", "focused", "long"]
    made, at = documents(curriculum), 0
    for stage, given in zip(stages, STAGES, strict=True):
        part = made[at : (at := at + stage["documents"])]
        tokens = sum(map(len, part))
        assert tokens == stage["tokens"] == pytest.approx(6000 * given["share"], abs=300)
        by_source = Counter(dict.fromkeys((57, 58, 59), 0))
        for document in part:
            by_source[document[0]] += len(document)
        wanted = [weight / sum(given["weights"]) for weight in given["weights"]]
        assert [by_source[first] / tokens for first in (57, 58, 59)] == pytest.approx(wanted, abs=0.2)
    assert at == len(made)
    assert {len(document) for document in part if document[0] == 59} == {500}


def test_the_report_has_the_shares_of_every_stage_and_source(curriculum: Artifact) -> None:
    report = json.loads(curriculum.file("mixture.json").read_text())
    rows = {(row["stage"], row["source"]): row for row in report["stages"]}
    assert len(rows) == 9
    assert rows["general", "web"]["share_wanted"] == 0.8
    assert rows["general", "web"]["share"] == pytest.approx(0.8, abs=0.05)
    assert rows["long", "web"]["tokens"] == 0
    totals = {row["source"]: row for row in report["sources"]}
    for source, total in totals.items():
        assert total["tokens"] == sum(row["tokens"] for (_, name), row in rows.items() if name == source)
    assert totals["web"]["share_wanted"] == pytest.approx(0.5 * 0.8 + 0.3 * 0.3)
    assert report == {name: curriculum.manifest.metrics[name] for name in ("sources", "stages")}


def test_a_stage_continues_where_the_previous_one_stopped(three: list[Artifact], mixed: Mix, documents: Read) -> None:
    halves = [{"name": name, "share": 1} for name in ("a", "b")]
    artifact = mixed(three, stages=halves, weights=[1, 1, 0], token_budget=8000, max_epochs=[1])
    times = Counter(tuple(document) for document in documents(artifact))
    assert set(times.values()) == {1}
    assert sum(document[0] == 58 for document in times) == 40


def test_the_cap_holds_over_all_stages(three: list[Artifact], mixed: Mix) -> None:
    stages = [{"name": "first", "share": 1}, {"name": "second", "share": 2}]
    with pytest.raises(InputError) as error:
        mixed(three, stages=stages, weights=[1, 1, 1], token_budget=9000, max_epochs=[1.2], labels=["a", "b", "c"])
    assert "source 'c' has 2000 tokens; all up to the end of stage 'second' takes 1.46 epochs, 1.2 are" in str(
        error.value
    )
    # A single stage would be within the cap.
    mixed(three, weights=[1, 1, 1], token_budget=6000, max_epochs=[1.2])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stages": STAGES}, "token_budget is missing"),
        ({"stages": [*STAGES, STAGES[0]], "token_budget": 10}, "duplicate stage name"),
        ({"stages": [{"name": "a", "share": 1}], "token_budget": 10}, "weights is missing"),
        (
            {"stages": [{"name": "a", "share": 1, "weights": [1]}], "token_budget": 10},
            "weights: 1 values for 3",
        ),
        ({"stages": [{"name": "a", "share": 1, "weights": [0] * 3}], "token_budget": 10}, "all weights are zero"),
        ({"stages": [{"name": "a", "share": 0, "weights": [1] * 3}], "token_budget": 10}, "share"),
    ],
)
def test_bad_stages_are_refused(three: list[Artifact], mixed: Mix, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixed(three, **config)


def test_training_uses_the_stages_in_order(curriculum: Artifact) -> None:
    source = training_windows(curriculum.path, sequence_length=20, seed=3)
    stages = read_curriculum(curriculum.path, open_tokens(curriculum.path, "train").n_documents)
    for epoch in (0, 1):
        at = epoch * source.windows_per_epoch
        for stage, rest in zip(stages, (0.8, 0.3, 0.0), strict=True):
            count = (stage.tokens - 1) // 20
            seen = np.concatenate([source.sample(at + index).ids[1:] for index in range(count)])
            filling = np.isin(seen, [57, 58, 59])
            assert (seen[filling] == 57).mean() == pytest.approx(rest, abs=0.06)
            at += count
        assert at == (epoch + 1) * source.windows_per_epoch


def test_a_batch_is_a_function_of_seed_and_step(curriculum: Artifact) -> None:
    steps = range(source_steps := 100)
    straight = training_windows(curriculum.path, sequence_length=20, seed=3)
    wanted = [batch(straight, step * 4, 4).ids for step in steps]
    for resumed_at in (1, 37, 74, 99):
        resumed = training_windows(curriculum.path, sequence_length=20, seed=3)
        for step in range(resumed_at, source_steps):
            assert np.array_equal(batch(resumed, step * 4, 4).ids, wanted[step])
    other = training_windows(curriculum.path, sequence_length=20, seed=4)
    assert not np.array_equal(batch(other, 0, 4).ids, wanted[0])


def test_each_stage_has_a_new_permutation_per_epoch(curriculum: Artifact) -> None:
    source = training_windows(curriculum.path, sequence_length=20, seed=3)
    first = [source.sample(index).ids.tolist() for index in range(50)]
    assert first != [source.sample(source.windows_per_epoch + index).ids.tolist() for index in range(50)]


def test_a_stage_too_small_for_a_sequence_is_named(curriculum: Artifact) -> None:
    with pytest.raises(InputError, match=r"stage 'long': .* do not fill one sequence of 1500"):
        training_windows(curriculum.path, sequence_length=1500, seed=3)
    with pytest.raises(InputError, match="stage 'general': no document has 600 tokens"):
        training_windows(curriculum.path, sequence_length=20, seed=3, min_document_tokens=600)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"stages": []}', '{"stages": [{"name": "a", "documents": 3, "tokens": 9}]}']
)
def test_a_damaged_curriculum_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "curriculum.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"curriculum\.json"):
        read_curriculum(tmp_path, 4)


def test_without_stages_training_reads_the_same_samples(three: list[Artifact], mixed: Mix) -> None:
    plain = mixed(three, weights=[1, 1, 1])
    assert not (plain.path / "curriculum.json").exists()
    assert isinstance(training_windows(plain.path, sequence_length=20, seed=3), TokenWindows)


def test_train_resumes_a_curriculum_at_the_step_it_stopped(session: Session, curriculum: Artifact) -> None:
    """Two consecutive runs see the same samples as one run of the total length."""
    from longcat.stages.formats import training_windows as loader

    settings = {
        "sequence_length": 32,
        "batch_size": 2,
        "device": "cpu",
        "threads": 1,
        "loader_workers": 0,
        "evaluation": {"windows": 2},
        "schedule": {"kind": "constant", "warmup_steps": 0},
    }
    seen: list[int] = []
    original = loader.StagedPart.sample

    def sample(self: loader.StagedPart, number: int) -> Window:
        seen.append(number)
        return original(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader.StagedPart, "sample", sample)
        first = run_stage(
            session, "train", {**settings, "preset": "smoke", "steps": 2}, {"tokens": curriculum}
        ).artifact
        run_stage(session, "train", {**settings, "steps": 2}, {"tokens": curriculum, "checkpoint": first})
    assert seen == list(range(8))
