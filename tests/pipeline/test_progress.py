"""Progress counts only with its files, and no progress is left next to a finished artifact."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.files import atomic_write, is_temporary, read_json, remove_tree
from longcat.pipeline.progress import SilentProgress
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.shards import Recorded, map_shards, same_files
from longcat.pipeline.store import Staging, Store


def write_number(task: tuple[Path, int]) -> dict[str, Any]:
    folder, number = task
    calls = folder / "calls"
    calls.mkdir(exist_ok=True)
    (calls / f"{number}-{len(list(calls.glob(f'{number}-*')))}").touch()
    atomic_write(folder / "output" / f"{number}.txt", b"%d" % number)
    return {"number": number}


def run(folder: Path, count: int = 3) -> list[dict[str, Any]]:
    with SilentProgress().task("x") as bar:
        tasks = [(folder, number) for number in range(count)]
        return map_shards(LocalEngine(1), write_number, tasks, folder / "work" / "shards-x", folder, bar)


def calls(folder: Path) -> list[int]:
    return [len(list((folder / "calls").glob(f"{number}-*"))) for number in range(3)]


def test_complete_results_are_not_made_again(tmp_path: Path) -> None:
    assert run(tmp_path) == run(tmp_path) == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert calls(tmp_path) == [1, 1, 1]


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"7"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_record_without_its_file_is_ignored(tmp_path: Path, harm: Callable[[Path], Any]) -> None:
    run(tmp_path)
    victim = tmp_path / "output" / "1.txt"
    harm(victim)
    if victim.is_dir():
        victim.rmdir()
        victim.symlink_to("/nowhere")
    run(tmp_path)
    assert calls(tmp_path) == [1, 2, 1]
    assert (tmp_path / "output" / "1.txt").read_bytes() == b"1"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"result": {"number": 1}}', b'{"number": 1}', b"null"])
def test_a_damaged_record_is_ignored(tmp_path: Path, content: bytes) -> None:
    run(tmp_path)
    (tmp_path / "work" / "shards-x" / "000001.json").write_bytes(content)
    assert run(tmp_path)[1] == {"number": 1}
    assert calls(tmp_path) == [1, 2, 1]


def test_another_division_of_the_work_starts_from_the_beginning(tmp_path: Path) -> None:
    run(tmp_path, 2)
    run(tmp_path, 3)
    assert calls(tmp_path) == [2, 2, 1]


def test_progress_may_be_moved(tmp_path: Path) -> None:
    run(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    run(tmp_path / "b")
    assert calls(tmp_path / "b") == [1, 1, 1]


@pytest.fixture
def leftover(session: Session, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """A finished artifact with remaining progress: the process was killed right after the rename."""
    with monkeypatch.context() as patch:
        patch.setattr(Store, "discard", lambda self, staging: None)
        artifact = run_stage(session, "toy.write", {}, publish_as="docs").artifact
    assert (session.store.staging(artifact.id).work / "shards-writing").is_dir()
    return artifact


def test_reusing_an_artifact_deletes_leftover_progress(session: Session, leftover: Artifact) -> None:
    assert run_stage(session, "toy.write", {}).reused
    assert not session.store.staging(leftover.id).folder.exists()


@pytest.mark.parametrize("way", ["remove", "rmtree", "quarantine"])
def test_an_artifact_made_again_with_leftover_progress_is_complete(
    session: Session, leftover: Artifact, way: str
) -> None:
    before = leftover.manifest.files
    if way == "remove":
        session.store.remove(leftover)
        assert not session.store.staging(leftover.id).folder.exists()
    elif way == "quarantine":
        session.store.quarantine(leftover.path, leftover.kind, leftover.id, "test", damaged=True)
        assert not session.store.staging(leftover.id).folder.exists()
    else:
        shutil.rmtree(leftover.path)
    again = run_stage(session, "toy.write", {})
    assert not again.reused
    assert again.artifact.manifest.files == before
    assert again.artifact.damage() == []


def test_progress_without_its_output_is_made_again(session: Session, leftover: Artifact) -> None:
    """As after an interrupted deletion of progress."""
    store, before = session.store, leftover.manifest.files
    staging = store.staging(leftover.id)
    leftover.path.rename(staging.folder / "output")
    (staging.output / "shard-00000.jsonl.zst").unlink()
    again = run_stage(session, "toy.write", {}).artifact
    assert again.manifest.files == before


def test_progress_names_its_run(store: Store, session: Session) -> None:
    seen = {}
    original = Staging.describe

    def look(self: Staging, run: dict[str, Any]) -> None:
        original(self, run)
        seen.update(read_json(self.folder / "run.json"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Staging, "describe", look)
        base = run_stage(session, "toy.write", {}).artifact
        run_stage(session, "toy.upper", {}, {"documents": base.id}, "shouted")
    assert seen["stage"] == "toy.upper"
    assert seen["name"] == "shouted"
    assert seen["inputs"] == [base.id]


def test_progress_that_cannot_be_deleted_does_not_fail_the_run(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    artifact = run_stage(session, "toy.write", {}).artifact
    assert artifact.damage() == []
    assert not session.store.staging(artifact.id).folder.exists()
    assert len(session.store.trash.leftovers()) == 1


def test_a_folder_that_is_half_deleted_has_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "step-000000005"
    folder.mkdir()
    (folder / "weights").touch()
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: None)  # killed before the first file was deleted
    remove_tree(folder)
    (left,) = tmp_path.iterdir()
    assert is_temporary(left)
    remove_tree(folder)  # already deleted, as intended


def write_and_drop(task: Path) -> dict[str, Any]:
    atomic_write(task / "scratch", b"x")
    atomic_write(task / "kept", b"y")
    (task / "scratch").unlink()
    return {}


def test_deleted_scratch_files_are_not_part_of_the_record(tmp_path: Path) -> None:
    record = Recorded(write_and_drop, tmp_path)(tmp_path)
    assert [name for name, _, _ in record["files"]] == ["kept"]
    assert same_files(record["files"], tmp_path)
