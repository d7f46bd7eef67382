"""Garbage collection of leftovers of deletions and kills, and of what it cannot delete."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.files import folder_bytes
from longcat.pipeline.gc import Garbage, Options, collect
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store


def make(session: Session, name: str | None = None, **config: Any) -> Artifact:
    artifact = run_stage(session, "toy.write", config, publish_as=name).artifact
    session.store.live.close()
    return artifact


ORDINARY = Options()


def gone(store: Store, options: Options = ORDINARY) -> set[str]:
    return {item.id for item in collect(store, options).garbage if item.kept is None and item.id}


def test_what_cannot_be_moved_is_named_and_the_rest_is_collected(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = session.store
    stuck, loose = make(session), make(session, count=9)
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == stuck.path:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self))
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    kept = {item.id: item.kept for item in collect(store, Options()).garbage}
    assert kept[loose.id] is None
    assert kept[stuck.id] is not None
    assert "another file system" in kept[stuck.id]
    assert stuck.damage() == []
    # With --now it is deleted in place.
    assert gone(store, Options(now=True)) == {stuck.id}
    assert not stuck.path.exists()


def test_links_and_files_in_the_staging_folder_are_collected(session: Session, tmp_path: Path) -> None:
    store = session.store
    make(session, "docs")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("the target of a link is not counted")
    (store.root / ".staging" / ("a" * 16)).symlink_to(outside)
    (store.root / ".staging" / "0123456789abcdef.removed").mkdir()
    (store.root / ".staging" / "note").touch()
    assert folder_bytes(outside) > 0
    assert folder_bytes(store.root / ".staging" / ("a" * 16)) == 0
    collect(store, Options())
    assert sorted(path.name for path in (store.root / ".staging").iterdir()) == ["live", "locks"]
    assert (outside / "kept").exists()


def test_an_interrupted_deletion_is_finished(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    store = session.store
    artifact = make(session)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(store, Options(now=True))
    assert not artifact.path.exists()
    assert store.trash.entries() == []
    (item,) = collect(store, Options()).garbage
    assert isinstance(item, Garbage)
    assert item.what == "leftover"
    assert list(store.trash.folder.iterdir()) == []


def test_a_command_releases_its_holds(session: Session) -> None:
    from longcat.cli.app import run

    make(session, "docs")
    assert run(["--store", str(session.store.root), "artifacts", "list"]) == 0
    assert not session.store.live.folder.exists() or list(session.store.live.folder.iterdir()) == []
    assert sys.modules["longcat.pipeline.roots"]._open is not None


def test_artifacts_read_by_a_command_are_kept(session: Session) -> None:
    base = make(session)
    reader = Store(session.store.root)
    assert reader.take(base.id).id == base.id
    assert gone(session.store) == set()
    reader.live.close()
    assert gone(session.store) == {base.id}


def test_leftovers_of_a_killed_small_write_are_collected_after_an_hour(session: Session) -> None:
    make(session, "docs")
    torn = [session.store.root / folder / ".docs.json.1-2.tmp" for folder in ("refs", ".manifests", "pins")]
    for path in torn:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    collect(session.store, Options())
    assert all(path.exists() for path in torn)
    for path in torn:
        os.utime(path, (1, 1))
    assert {item.what for item in collect(session.store, Options()).garbage} == {"leftover"}
    assert not any(path.exists() for path in torn)


def test_progress_that_vanishes_while_it_is_listed_is_not_an_error(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run finishes during the collection, at each of its directory listings in turn."""
    store = session.store
    looks, original = [0], os.scandir

    for moment in range(12):
        with store.making("a" * 16) as staging:
            (staging.work / "shards-x").mkdir(exist_ok=True)
            (staging.work / "shards-x" / "000000.json").touch()
        looks[0] = moment

        def scandir(path: Any = ".") -> Any:
            looks[0] -= 1
            if looks[0] == 0:
                shutil.rmtree(store.staging("a" * 16).folder, ignore_errors=True)
            return original(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", scandir)
            collect(store, Options())
