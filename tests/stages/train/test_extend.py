"""Stage `extend`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.model import mixers
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.runner import Session, execute
from longcat.pipeline.store import Store
from longcat.stages.extend.config import ExtendConfig
from longcat.stages.extend.resume_from import plan_extension
from longcat.stages.formats.best_fit_windows import BestFitPart
from longcat.stages.formats.checkpoint import read_model
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import read_state
from longcat.stages.formats.windows import JoinedPart
from longcat.stages.train import trainer
from longcat.stages.train.joins.resume_from import plan_resumption, publish_run

LENGTHS = [*range(20, 100), 300, 400, 700, 800, 1500]
EXTENSION: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "learning_rate": 1e-3,
    "checkpoint_every": 2,
    "evaluation": {"windows": 2},
    "phases": [
        {"sequence_length": 600, "rope_theta": 5e6, "steps": 3, "batch_size": 2},
        {"sequence_length": 1200, "rope_theta": 1e7, "token_budget": 4000, "batch_size": 1},
    ],
}


@pytest.fixture
def long_tokens(make_tokens: Any) -> Artifact:
    return make_tokens(LENGTHS)


@pytest.fixture
def base(run_stage: Any, long_tokens: Artifact, tiny: dict[str, Any]) -> Artifact:
    return run_stage("train", tiny, {"tokens": long_tokens})


class PowerFailureError(Exception):
    """Simulates a power failure."""


def test_published_phases_are_the_default() -> None:
    config = ExtendConfig()
    assert [(phase.sequence_length, phase.rope_theta, phase.token_budget) for phase in config.phases] == [
        (32768, 5e6, 80_000_000_000),
        (131072, 1e7, 20_000_000_000),
    ]
    assert config.long_document_fraction == 0.25


def test_changes_base_and_length_and_trains_on(run_stage: Any, base: Artifact, long_tokens: Artifact) -> None:
    extended = run_stage("extend", EXTENSION, {"checkpoint": base, "tokens": long_tokens})
    config = read_model(extended).config
    assert (config.rope_theta, config.max_position_embeddings) == (1e7, 1200)
    before = read_model(base).config
    assert config.model_dump(exclude={"rope_theta", "max_position_embeddings"}) == before.model_dump(
        exclude={"rope_theta", "max_position_embeddings"}
    )
    records = read_metrics(extended.file("metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(9, 16))
    assert [index for index, record in enumerate(records) if "validation_loss" in record] == [2, 6]
    # The base ended at 3e-4: one step of warm-up to the own peak, and the last fifth of both phases together decays.
    rates = [record["learning_rate"] for record in records]
    assert rates == pytest.approx([1e-3] * 6 + [1e-4])
    state = read_state(extended)
    seen = 8 * 4 * 32 + 3 * 2 * 600 + 4 * 1200
    assert (state.step, state.tokens, state.schedule_position) == (15, seen, 7)
    phases = extended.manifest.metrics["phases"]
    assert [phase["sequence_length"] for phase in phases] == [600, 1200]
    assert extended.manifest.counts["steps"] == 7
    # Windows of 601 tokens: 601 of each, twice of the longest; the rests of 100, 200 and 300 tokens share one.
    assert phases[0]["packing_of_long_documents"] == {
        "kind": "best_fit",
        "sequence_length": 600,
        "sequences": 5,
        "waste": round(1 / 3000, 6),
        "documents": 3,
        "longer_documents": 3,
        "cut_documents": 0,
        "cut_fraction": 0.0,
    }
    assert [phase["packing"]["cut_documents"] for phase in phases] == [0, 0]
    assert state.data is not None and state.data.packing == "best_fit"


def test_a_shorter_phase_does_not_shrink_the_context(run_stage: Any, base: Artifact, long_tokens: Artifact) -> None:
    phase = {"sequence_length": 128, "rope_theta": 5e6, "steps": 1, "batch_size": 1}
    extended = run_stage("extend", EXTENSION | {"phases": [phase]}, {"checkpoint": base, "tokens": long_tokens})
    assert read_model(extended).config.max_position_embeddings == 512


@pytest.mark.parametrize(("packing", "source"), [("joined", JoinedPart), ("best_fit", BestFitPart)])
def test_a_quarter_of_the_sequences_are_long_documents(
    run_stage: Any,
    base: Artifact,
    long_tokens: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    packing: str,
    source: type[JoinedPart],
) -> None:
    lengths: list[int] = []
    original = source.sample

    def sample(self: JoinedPart, number: int) -> Any:
        lengths.append(self.source.total)
        return original(self, number)

    monkeypatch.setattr(source, "sample", sample)
    phase = {"sequence_length": 200, "rope_theta": 5e6, "steps": 4, "batch_size": 4, "min_document_tokens": 700}
    config = EXTENSION | {"phases": [phase], "loader_workers": 0, "packing": packing}
    run_stage("extend", config, {"checkpoint": base, "tokens": long_tokens})
    assert lengths.count(700 + 800 + 1500) == 4
    assert lengths.count(sum(LENGTHS)) == 12


@pytest.mark.parametrize("call", [2, 3, 4, 6])
def test_resumes_in_the_middle_of_a_phase(
    call: int,
    store: Store,
    run_stage: Any,
    base: Artifact,
    long_tokens: Artifact,
    contents: Callable[[Artifact], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = {"checkpoint": base, "tokens": long_tokens}
    undisturbed = run_stage("extend", EXTENSION, inputs)
    expected = contents(undisturbed), undisturbed.manifest.metrics
    store.remove(undisturbed)
    original, calls = trainer.TrainingRun.step, [0]

    def step(self: Any, done: int) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise PowerFailureError
        return original(self, done)

    monkeypatch.setattr(trainer.TrainingRun, "step", step)
    with pytest.raises(PowerFailureError):
        run_stage("extend", EXTENSION, inputs)
    resumed = run_stage("extend", EXTENSION, inputs)
    assert (contents(resumed), resumed.manifest.metrics) == expected
    assert calls[0] <= 7 + 2  # finished phases are not trained again


def test_a_save_of_a_later_phase_becomes_a_checkpoint(
    session: Session,
    run_stage: Any,
    base: Artifact,
    long_tokens: Artifact,
    contents: Callable[[Artifact], dict[str, str]],
) -> None:
    """Steps count over the phases; the save after two of three steps of the second one is that of a shorter run."""
    inputs, kept = {"checkpoint": base, "tokens": long_tokens}, {"keep_every": 5}
    schedule = {"schedule": {"total_steps": 100, "on_join": "rewarm"}}
    whole = run_stage("extend", EXTENSION | schedule | kept, inputs, "longer")
    second = {"sequence_length": 1200, "rope_theta": 1e7, "steps": 2, "batch_size": 1}
    short = run_stage("extend", EXTENSION | schedule | {"phases": [EXTENSION["phases"][0], second]}, inputs)
    assert whole.manifest.counts["steps"] == 3 + 4
    save = publish_run(session, "longer@5").artifact
    for name in ("model.safetensors", "config.json", "training/optimizer.safetensors"):
        assert contents(save)[name] == contents(short)[name]
    assert [item["step"] for item in read_metrics(save.file("metrics.jsonl"))] == [9, 10, 11, 12, 13]
    state, expected = read_state(save), read_state(short)
    assert state.model_copy(update={"config": {}}) == expected.model_copy(update={"config": {}})
    with pytest.raises(InputError, match=r"longer \(\w+\) is a run of extend, --resume-from goes on from one of train"):
        plan_resumption(session, "longer@5", {}, {})


@pytest.fixture
def resume(session: Session) -> Callable[..., Artifact]:
    """Go on from an extension with settings."""

    def run(text: str, **given: Any) -> Artifact:
        for plan in plan_extension(session, text, given, {}):
            outcome = execute(plan, session)
        return outcome.artifact

    return run


def test_an_extension_goes_on_from_a_save_with_the_same_bits(
    run_stage: Any,
    resume: Callable[..., Artifact],
    bars: Any,
    base: Artifact,
    long_tokens: Artifact,
    contents: Callable[[Artifact], dict[str, str]],
) -> None:
    """Three steps of the first phase and four of the second, with saves after two and five."""
    config = EXTENSION | {"keep_every": 1, "balance_loss": {"enabled": False}}
    config |= {"evaluation": {"every": 1, "windows": 2}}
    whole = run_stage("extend", config, {"checkpoint": base, "tokens": long_tokens}, "whole")
    for step, phases in ((2, 2), (5, 1)):
        branch = resume(f"whole@{step}")
        for name in ("model.safetensors", "config.json", "training/optimizer.safetensors"):
            assert contents(branch)[name] == contents(whole)[name]
        # A run measures its first step.
        records, of_whole = (
            [{key: value for key, value in line.items() if key not in ("stability", "expert_load")} for line in lines]
            for lines in (read_metrics(made.file("metrics.jsonl")) for made in (branch, whole))
        )
        assert records == of_whole[step:]
        state, expected = read_state(branch), read_state(whole)
        assert state.model_copy(update={"config": {}}) == expected.model_copy(update={"config": {}})
        assert (branch.manifest.counts["steps"], len(branch.manifest.metrics["phases"])) == (7 - step, phases)
        assert [*branch.manifest.performance][-1] == "phase-2"
    assert [(total, steps[0], len(steps) - 1) for label, total, steps in bars.tasks if "extending" in label] == [
        (3, 0, 3),
        (4, 0, 4),
        (3, 2, 1),  # of the first phase, from its save
        (4, 0, 4),
        (4, 2, 2),
    ]


def test_an_extension_goes_on_with_other_settings_and_further_phases(
    run_stage: Any, resume: Callable[..., Artifact], base: Artifact, long_tokens: Artifact
) -> None:
    first, second = EXTENSION["phases"]
    config = EXTENSION | {"keep_every": 1}
    whole = run_stage("extend", config, {"checkpoint": base, "tokens": long_tokens}, "whole")
    # The save after the first phase; then the second one has tokens instead of steps, and is done in two parts.
    tokens = {**second, "steps": None, "token_budget": 3 * 1200}
    early = resume("whole@3", phases=[first, tokens], learning_rate=1e-4, keep_every=1)
    assert early.manifest.counts["steps"] == 3
    assert early.manifest.config["resumed"]["phase_steps"] == 3
    late = resume(f"{early.id}@5", phases=[first, {**tokens, "batch_size": 2}])
    assert late.manifest.config["resumed"] == {
        "steps": 5,
        "tokens": 3 * first["batch_size"] * 600 + 2 * 1200,
        "phase": 1,
        "phase_steps": 2,
        "phase_tokens": 2400,
    }
    assert late.manifest.counts["steps"] == 1  # one of 1,200 tokens would be left, two sequences are a step
    third = {"sequence_length": 1400, "steps": 2, "batch_size": 1}
    longer = resume("whole", phases=[first, second, third])
    assert longer.manifest.counts["steps"] == 2
    assert [item.id for item in longer.manifest.inputs["checkpoint"]] == [whole.id]
    assert read_model(longer).config.max_position_embeddings == 1400
    with pytest.raises(ConfigError, match=r"phases have 7 steps, of which the run has done 7; give the last phase"):
        resume("whole")
    with pytest.raises(ConfigError, match=r"phases.0 was done before step 5 of the run with sequence_length = 600, "):
        resume("whole@5", phases=[{**first, "steps": 2}, second])


def test_too_few_long_documents_are_an_error_before_training(
    run_stage: Any, base: Artifact, long_tokens: Artifact
) -> None:
    phases = [*EXTENSION["phases"], {"sequence_length": 2000, "rope_theta": 1e7, "steps": 1, "batch_size": 1}]
    with pytest.raises(InputError) as caught:
        run_stage("extend", EXTENSION | {"phases": phases}, {"checkpoint": base, "tokens": long_tokens})
    assert caught.value.what == (
        "no document has 2000 tokens or more; of 85 documents the longest has 1500 "
        "(5 of 128 or more, 5 of 256 or more, 3 of 512 or more, 1 of 1024 or more)"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": []}, "phases"),
        ({"phases": [{"sequence_length": 600, "rope_theta": 5e6}]}, "either steps or token_budget"),
        ({"long_document_fraction": 1.5}, "long_document_fraction"),
    ],
)
def test_bad_configurations(
    changes: dict[str, Any], message: str, run_stage: Any, base: Artifact, long_tokens: Artifact
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage("extend", EXTENSION | changes, {"checkpoint": base, "tokens": long_tokens})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 1e5}, "phases.0.rope_theta = 100000 is below the model's 1e+06"),
        ({"sequence_length": 16}, "phases.0.sequence_length = 16 is below the 32 tokens that the checkpoint was"),
    ],
)
def test_a_step_back_is_refused(
    run_stage: Any, base: Artifact, long_tokens: Artifact, changes: dict[str, Any], message: str
) -> None:
    phase = {"sequence_length": 600, "rope_theta": 5e6, "steps": 1, "batch_size": 1} | changes
    with pytest.raises(ConfigError) as caught:
        run_stage("extend", EXTENSION | {"phases": [phase]}, {"checkpoint": base, "tokens": long_tokens})
    assert message in str(caught.value)


def test_a_step_back_is_foreseen(base: Artifact, long_tokens: Artifact) -> None:
    from longcat.pipeline.plans import PlannedInput
    from longcat.stages.extend.check import foresee_extension

    phase = {"sequence_length": 16, "rope_theta": 5e6, "steps": 1, "batch_size": 1}
    inputs = {
        name: (PlannedInput(id=item.id, kind=item.kind, artifact=item),)
        for name, item in (("checkpoint", base), ("tokens", long_tokens))
    }
    with pytest.raises(ConfigError, match="below the 32 tokens"):
        foresee_extension(ExtendConfig(phases=[phase]), inputs)  # type: ignore[arg-type]


def test_yarn_and_conversion_are_steps_of_a_schedule(
    run_stage: Any, base: Artifact, long_tokens: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")
    yarn = {"factor": 4.0, "original_max_position_embeddings": 512}
    pattern = {"pattern": ["test_linear", "mla"]}
    phases = [
        {"sequence_length": 600, "rope_scaling": yarn, "steps": 1, "batch_size": 1},
        {"sequence_length": 700, "attention": pattern, "steps": 1, "batch_size": 1},
    ]
    extended = run_stage("extend", EXTENSION | {"phases": phases}, {"checkpoint": base, "tokens": long_tokens})
    config = read_model(extended).config
    assert config.rope_scaling is not None
    assert (config.rope_scaling.factor, config.attention, config.max_position_embeddings) == (4.0, pattern, 700)


def test_resume_from_on_the_command_line(
    store: Store, run_stage: Any, base: Artifact, long_tokens: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    run_stage("extend", EXTENSION | {"keep_every": 1}, {"checkpoint": base, "tokens": long_tokens}, "whole")
    command = ["--store", str(store.root), "extend", "--resume-from", "whole@5", "--learning-rate", "5e-4"]
    assert run([*command, "--dry-run", "--json"]) == 0
    save, step = json.loads(capfd.readouterr().out)["steps"]
    assert (save["stage"], step["stage"], step["inputs"]["checkpoint"]) == ("train.publish", "extend", [save["id"]])
    (row,) = step["training"]
    assert (row["sequence_length"], row["steps"], row["schedule"], row["data"]) == (1200, 2, "rewarm", "continue")
    assert run([*command, "--checkpoint", base.id]) == 2
    assert "--resume-from names the checkpoint, checkpoint another one" in capfd.readouterr().err
