"""Garbage collection keeps what a live process uses or just published, and what cannot be judged."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.artifact import MANIFEST_NAME, Artifact
from longcat.pipeline.errors import MissingArtifactError, NewerArtifactError
from longcat.pipeline.gc import Options, collect, survey
from longcat.pipeline.pins import pin, unpin
from longcat.pipeline.processes import safe_environment, safe_python
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

HOLD = """
import sys
from pathlib import Path
from longcat.pipeline.store import Store
store = Store(Path(sys.argv[1]))
store.hold(sys.argv[2:])
print("held", flush=True)
sys.stdin.read()
"""


def make(session: Session, name: str | None = None, **config: Any) -> Artifact:
    artifact = run_stage(session, "toy.write", config, publish_as=name).artifact
    session.store.live.close()
    return artifact


def shout(session: Session, artifact: Artifact, name: str | None = None, **config: Any) -> Artifact:
    shouted = run_stage(session, "toy.upper", config, {"documents": artifact.id}, name).artifact
    session.store.live.close()
    return shouted


ORDINARY = Options()


def gone(store: Store, options: Options = ORDINARY) -> set[str]:
    return {item.id for item in collect(store, options).garbage if item.kept is None and item.id}


@pytest.fixture
def holder(store: Store) -> Any:
    """Another process that holds ids of the store until it is killed."""
    started = []

    def hold(*identifiers: str) -> subprocess.Popen[str]:
        command = [*safe_python(), "-c", HOLD, str(store.root), *identifiers]
        environment = os.environ | safe_environment()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", ["kill", "close"])
def test_artifacts_held_by_a_live_process_are_kept_until_it_exits(session: Session, holder: Any, end: str) -> None:
    base = make(session)
    top = shout(session, base)
    loose = make(session, count=9)
    process = holder(top.id)
    assert gone(session.store) == {loose.id}
    if end == "kill":
        process.kill()
    process.communicate()
    assert gone(session.store) == {base.id, top.id}
    assert list(session.store.live.folder.iterdir()) == []


def test_damage_that_a_live_process_reads_is_not_moved(session: Session, holder: Any) -> None:
    base = make(session, "docs")
    base.file("shard-00000.jsonl.zst").write_bytes(b"")
    process = holder(base.id)
    (item,) = collect(session.store, Options(damaged=True)).garbage
    assert item.kept == "in use by a live process"
    assert base.path.is_dir()
    process.kill()
    process.communicate()
    assert gone(session.store, Options(damaged=True)) == {base.id}


def test_a_new_artifact_is_not_collected_before_it_is_named(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published, with partly deleted progress, and not named yet."""
    found: list[set[str]] = []
    discard = Store.discard

    def look(store: Store, staging: Any) -> None:
        found.append(gone(Store(store.root)))
        discard(store, staging)

    monkeypatch.setattr(Store, "discard", look)
    artifact = run_stage(session, "toy.write", {}, publish_as="precious").artifact
    assert found[0] == set()
    assert session.store.resolve("precious").id == artifact.id


def test_the_input_of_a_live_run_is_kept(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make(session)
    found: list[set[str]] = []
    from longcat.pipeline.stage import registry

    stage = registry.get("toy.upper")

    def during(context: Any) -> Any:
        found.append(gone(Store(session.store.root)))
        return stage.function(context)

    monkeypatch.setattr(registry, "_stages", {**registry._stages, "toy.upper": _with(stage, during)})
    run_stage(session, "toy.upper", {}, {"documents": base.id}, "shouted")
    assert found == [set()]


def _with(stage: Any, function: Callable[[Any], Any]) -> Any:
    from dataclasses import replace

    return replace(stage, function=function)


def test_progress_that_a_run_resumes_meanwhile_is_kept(session: Session, holder: Any) -> None:
    """The list was made first, then the run started, then the deletion happens."""
    store = session.store
    for number in "ab":
        with store.making(number * 16):
            pass
    items = survey(store, Options(unfinished=True)).garbage
    assert {item.id for item in items} == {"a" * 16, "b" * 16}
    holder("b" * 16)
    assert gone(store, Options(unfinished=True)) == {"a" * 16}
    assert store.staging("b" * 16).output.is_dir()


def test_no_process_can_hold_ids_between_decision_and_deletion(session: Session) -> None:
    store = session.store
    base = make(session)
    order = []
    with store.live.collecting():
        thread = threading.Thread(target=lambda: (Store(store.root).hold([base.id]), order.append("announced")))
        thread.start()
        time.sleep(0.5)
        order.append("collected")
    thread.join()
    assert order == ["collected", "announced"]


def test_unfinished_runs_are_named_and_kept(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    store = session.store
    base = make(session)
    plan_id = []

    def stop(self: Store, staging: Any) -> Any:
        plan_id.append(staging.folder.name)
        folder = staging.work / "training" / "checkpoints" / "step-000000311"
        folder.mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "seal", stop)
        with pytest.raises(KeyboardInterrupt):
            run_stage(session, "toy.upper", {}, {"documents": base.id}, "live")
    store.live.close()
    for _ in range(2):
        found = collect(store, Options())
        assert found.garbage == []  # its input is kept as well, or it could not resume
        (run,) = found.unfinished
        assert (run.name, run.stage, run.progress, run.inputs) == ("live", "toy.upper", "step 311", (base.id,))
        assert run.age_seconds < 60
        assert not run.active
    assert gone(store, Options(unfinished=True)) == {plan_id[0], base.id}
    # ... and quarantined progress is used by the next run.
    assert store.take_back(base.id, "artifact") is not None
    run_stage(session, "toy.upper", {}, {"documents": base.id}, "live")
    assert store.trash.entries() == []


def test_progress_of_a_finished_artifact_is_not_an_unfinished_run(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "discard", lambda self, staging: None)
        artifact = make(session, "docs")
    found = collect(session.store, Options())
    assert [(item.what, item.reason, item.kept) for item in found.garbage] == [
        ("progress", "progress of a run that is finished", None)
    ]
    assert artifact.damage() == []


def test_collected_artifacts_can_be_restored(session: Session) -> None:
    store = session.store
    artifact = make(session)
    assert gone(store) == {artifact.id}
    assert store.get("documents", artifact.id) is None
    (item,) = store.trash.entries()
    assert (item.entry.id, item.entry.reason, item.entry.kind) == (artifact.id, "no name references it", "documents")
    assert store.trash.restore(item) == artifact.path
    assert artifact.damage() == []
    assert store.trash.entries() == []


def test_a_run_restores_its_artifact_and_its_inputs(session: Session) -> None:
    store = session.store
    base = make(session)
    assert gone(store) == {base.id}
    plan = {"documents": base.id}
    with pytest.raises(MissingArtifactError, match=r"is in quarantine.*artifacts restore"):
        run_stage(session, "toy.upper", {}, plan)  # artifacts requested by the user must exist
    again = run_stage(session, "toy.write", {}, publish_as="docs")
    assert again.reused
    assert again.artifact.manifest == base.manifest


def test_quarantine_ends_after_the_grace_period(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    store = session.store
    artifact = make(session)
    gone(store)
    assert gone(store) == set()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6 * 86400)
    assert gone(store) == set()
    assert len(store.trash.entries()) == 1
    monkeypatch.setattr(time, "time", lambda: now + 8 * 86400)
    collect(store, Options())
    assert store.trash.entries() == []
    assert list(store.trash.folder.iterdir()) == []
    assert store.get("documents", artifact.id) is None


def test_now_frees_space_immediately(session: Session) -> None:
    store = session.store
    make(session)
    gone(store)
    make(session, count=5)
    collect(store, Options(now=True))
    assert list(store.trash.folder.iterdir()) == []
    assert store.artifacts() == []


def test_pins_keep_an_artifact_and_its_ancestors(session: Session) -> None:
    store = session.store
    base = make(session)
    top = shout(session, base)
    pin(store, top, "the run of the report")
    assert gone(store) == set()
    assert unpin(store, top.id)
    assert not unpin(store, top.id)
    assert gone(store) == {base.id, top.id}


def test_artifacts_of_a_newer_version_are_neither_used_nor_deleted(session: Session) -> None:
    store = session.store
    base = make(session)
    newer = shout(session, base)
    path = newer.path / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99, "license": "x"}))
    for options in (Options(damaged=True), Options(), Options(now=True)):
        collect(store, options)
        assert newer.path.is_dir()
        assert base.path.is_dir()
    with pytest.raises(NewerArtifactError, match="made by a newer longcat \\(schema 99\\), this one knows"):
        run_stage(session, "toy.upper", {}, {"documents": base.id})


@pytest.mark.parametrize("identifier", ["../../victim", "/victim", "0" * 15, "0" * 17, "0123456789ABCDEF", ""])
def test_an_invalid_id_is_not_found(session: Session, tmp_path: Path, identifier: str) -> None:
    store = session.store
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "victim.removed").mkdir()
    artifact = make(session)
    path = artifact.path / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": identifier}))
    (item,) = collect(store, Options(damaged=True, now=True)).garbage
    assert item.id == artifact.id
    assert victim.is_dir()
    assert (tmp_path / "victim.removed").is_dir()
    assert not artifact.path.exists()


def test_the_ancestors_of_damaged_artifacts_are_kept(session: Session) -> None:
    store = session.store
    base = make(session)
    top = shout(session, base, "shouted")
    (top.path / MANIFEST_NAME).write_text("{")
    assert gone(store) == set()
    assert gone(store, Options(damaged=True)) == {top.id}
    assert gone(store) == set()  # as long as it is in quarantine
    again = run_stage(session, "toy.upper", {}, {"documents": base.id}, "shouted")
    assert not again.reused
    assert again.artifact.manifest.files == top.manifest.files


def test_nothing_is_collected_while_dependencies_are_unknown(session: Session) -> None:
    store = session.store
    base = make(session)
    top = shout(session, base, "shouted")
    (top.path / MANIFEST_NAME).write_text("{")
    store.spare_path(top.id).unlink()
    found = collect(store, Options())
    assert found.garbage == []
    assert "no artifact is collected" in found.problems[-1]
    assert base.path.is_dir()


def test_names_that_cannot_be_read_stop_the_collection(session: Session) -> None:
    store = session.store
    make(session, "docs")
    loose = make(session, count=9)
    (store.root / "refs" / "docs.json").write_text("")
    found = collect(store, Options())
    assert found.garbage == []
    assert "docs.json" in found.problems[0]
    assert loose.path.is_dir()
