"""A single stage in the runner: reuse, resume, roles, sources, errors."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from longcat.pipeline.config import StageConfig
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError, InputError, InterruptedRunError, LongcatError, UsageError
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import Context, Result, stage


def test_the_same_recipe_is_reused_and_a_changed_one_is_not(session: Session) -> None:
    first = run_stage(session, "toy.write", {"count": 2})
    assert not first.reused
    assert run_stage(session, "toy.write", {"count": 2}).reused
    assert not run_stage(session, "toy.write", {"count": 3}).reused


def test_an_explicit_default_is_the_same_recipe(session: Session) -> None:
    run_stage(session, "toy.write", {})
    assert run_stage(session, "toy.write", {"count": 3, "bounds": {"low": 0}}).reused


def test_finished_shards_are_not_made_again(session: Session) -> None:
    config = {"shards": 4, "fail_at": 2}
    with pytest.raises(RuntimeError, match="shard failed"):
        run_stage(session, "toy.write", config)
    assert not list((session.store.root / "documents").glob("*"))
    (calls,) = session.store.root.glob(".staging/*/work/calls")
    assert calls.read_text().split() == ["0", "1"]
    seen: list[str] = []
    discard = session.store.discard

    def look(staging: object) -> None:
        seen.extend((staging.work / "calls").read_text().split())  # type: ignore[attr-defined]
        discard(staging)  # type: ignore[arg-type]

    session.store.discard = look  # type: ignore[method-assign]
    run_stage(session, "toy.write", config)
    assert seen == ["0", "1", "2", "3"]


@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_do_not_depend_on_the_number_of_workers(session: Session, workers: int) -> None:
    session.engine = LocalEngine(workers)
    artifact = run_stage(session, "toy.write", {"shards": 5}).artifact
    found = {entry.path: entry.sha256 for entry in artifact.manifest.files}
    session.store.remove(artifact)
    session.engine = LocalEngine(1)
    again = run_stage(session, "toy.write", {"shards": 5}).artifact
    assert found == {entry.path: entry.sha256 for entry in again.manifest.files}


def test_leftovers_of_a_killed_write_are_not_published(session: Session) -> None:
    with pytest.raises(RuntimeError):
        run_stage(session, "toy.write", {"fail_at": 1})
    (output,) = session.store.root.glob(".staging/*/output")
    (output / ".shard-00001.jsonl.zst.77-ab.tmp").write_bytes(b"half")
    artifact = run_stage(session, "toy.write", {"fail_at": 1}).artifact
    assert sorted(p.name for p in artifact.path.iterdir()) == [
        "manifest.json",
        "shard-00000.jsonl.zst",
        "shard-00001.jsonl.zst",
    ]


def test_roles_are_checked_before_anything_runs(session: Session) -> None:
    docs = run_stage(session, "toy.write", {}, publish_as="docs").artifact
    more = run_stage(session, "toy.write", {"count": 1}).artifact
    joined = run_stage(session, "toy.join", {}, {"parts": [docs, more]}).artifact
    assert joined.manifest.counts == {"parts": 2}
    with pytest.raises(UsageError, match="is given twice as 'parts'"):
        run_stage(session, "toy.join", {}, {"parts": [docs, more, docs.id]})
    for inputs, message in [
        ({}, "needs the input 'documents'"),
        ({"documents": ["docs", "docs"]}, "takes one"),
        ({"document": "docs"}, "has no input 'document'"),
        ({"documents": joined}, "is a report artifact"),
    ]:
        with pytest.raises(UsageError, match=message):
            run_stage(session, "toy.upper", {}, inputs)


def test_a_changed_external_file_makes_another_artifact(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    path.write_text("one")
    first = run_stage(session, "toy.write", {"paths": [str(path)]}).artifact
    path.write_text("two")
    second = run_stage(session, "toy.write", {"paths": [str(path)]}).artifact
    assert first.id != second.id
    with pytest.raises(InputError, match="no such file"):
        run_stage(session, "toy.write", {"paths": [str(tmp_path / "gone")]})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"coun": 1}, "unknown key 'coun', did you mean 'count'"),
        ({"count": "many"}, "'count': input should be a valid integer"),
        ({"count": -1}, "greater than or equal to 0"),
        ({"bounds": {"hgh": 1}}, "unknown key 'bounds.hgh', did you mean 'high'"),
    ],
)
def test_a_wrong_configuration_names_the_key(session: Session, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage(session, "toy.write", config)


class Nothing(StageConfig):
    pass


@stage("toy.full", revision=1, inputs={}, output="report")
def full_disk(context: Context[Nothing]) -> Result:
    """Fail like on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device", str(context.output / "x"))


@stage("toy.interrupted", revision=1, inputs={}, output="report")
def interrupted(context: Context[Nothing]) -> Result:
    """Be interrupted, optionally at a safe point."""
    with context.deferred_stop():
        os.kill(os.getpid(), signal.SIGTERM)
        (context.work / "saved").touch()
        assert context.stop_requested()
        context.check_stop()
    return Result()


@stage("toy.link", revision=1, inputs={}, output="report")
def links(context: Context[Nothing]) -> Result:
    """Put a link into the output."""
    (context.output / "passwd").symlink_to("/etc/passwd")
    return Result()


def test_a_full_disk_is_one_clear_error_and_nothing_is_published(session: Session) -> None:
    with pytest.raises(LongcatError, match="the disk is full"):
        run_stage(session, "toy.full", {})
    assert not (session.store.root / "report").exists()


def test_a_deferred_signal_waits_for_the_safe_point(session: Session) -> None:
    session.stop = StopSignal()
    with session.stop.installed(), pytest.raises(InterruptedRunError):
        run_stage(session, "toy.interrupted", {})
    assert list(session.store.root.glob(".staging/*/work/saved"))


def test_an_undeferred_signal_stops_at_once() -> None:
    stop = StopSignal()
    with stop.installed(), pytest.raises(InterruptedRunError) as caught:
        os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.exit_code == 130


def test_a_link_cannot_enter_an_artifact(session: Session) -> None:
    with pytest.raises(LongcatError, match="plain files only"):
        run_stage(session, "toy.link", {})
