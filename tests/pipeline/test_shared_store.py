"""A store of several users, on a read-only disk, and with a folder on another disk."""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import LongcatError
from longcat.pipeline.gc import Options, collect
from longcat.pipeline.lock import is_locked, locked
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


@pytest.fixture
def umask() -> object:
    before = os.umask(0o002)
    yield
    os.umask(before)


def session_on(store: Store) -> Session:
    """Session with one worker: a forked child must not start a pool, whose locks threads of the parent may hold."""
    return Session(store, engine=LocalEngine(1))


def as_nobody(action: Callable[[], None], group: int = NOBODY) -> None:
    """Run `action` in a child process of another user with loaded modules; its failure fails the test."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(NOBODY)
            action()
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        problem = stream.read()
    os.waitpid(child, 0)
    assert problem == "", problem


@pytest.fixture
def reachable(tmp_path: Path) -> None:
    """Give all users access to the folder of the test."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)


@pytest.fixture
def group_store(tmp_path: Path, umask: None, reachable: None) -> Store:
    """A group-writable store, as made by `umask 002` and a setgid folder."""
    root = tmp_path / "store"
    root.mkdir()
    os.chown(root, 0, NOBODY)
    root.chmod(0o2775)
    return Store(root)


def shout(store: Store, artifact: Artifact, name: str | None = None) -> Artifact:
    return run_stage(session_on(store), "toy.upper", {"suffix": name or ""}, {"documents": artifact.id}, name).artifact


def test_locks_and_files_follow_the_umask(group_store: Store) -> None:
    run_stage(session_on(group_store), "toy.write", {}, publish_as="docs")
    for path in group_store.root.rglob("*"):
        mode = path.lstat().st_mode
        assert mode & 0o020 if not stat.S_ISLNK(mode) else True, path


@needs_root
def test_the_group_may_work_in_it(group_store: Store) -> None:
    docs = run_stage(session_on(group_store), "toy.write", {}, publish_as="docs").artifact
    loose = run_stage(session_on(group_store), "toy.write", {"count": 7}).artifact
    group_store.live.close()
    shout(group_store, docs, "warm")  # imports what the child will need
    group_store.live.close()

    def work() -> None:
        os.umask(0o002)
        store = Store(group_store.root)
        shout(store, docs, "shouted")
        run_stage(session_on(store), "toy.write", {}, publish_as="docs")
        found = collect(store, Options())
        assert [item.id for item in found.garbage if item.kept is None] == [loose.id]

    as_nobody(work)
    assert set(group_store.refs.names()) == {"docs", "shouted", "warm"}


@needs_root
def test_another_user_can_resume_the_progress(group_store: Store) -> None:
    with pytest.raises(RuntimeError, match="shard failed"):
        run_stage(session_on(group_store), "toy.write", {"fail_at": 1})
    group_store.live.close()

    def work() -> None:
        os.umask(0o002)
        run_stage(session_on(Store(group_store.root)), "toy.write", {"fail_at": 1}, publish_as="docs")

    as_nobody(work)
    assert group_store.resolve("docs").damage() == []


@needs_root
def test_a_read_only_store_serves_its_content(tmp_path: Path, reachable: None) -> None:
    store = Store(tmp_path / "store")
    docs = run_stage(session_on(store), "toy.write", {}, publish_as="docs").artifact
    shout(store, docs, "shouted")
    store.live.close()
    before = sorted(path for path in store.root.rglob("*"))

    def work() -> None:
        reading = Store(store.root)
        again = run_stage(session_on(reading), "toy.write", {}, publish_as="docs")
        assert again.reused
        assert again.named is not None
        assert again.named.number == 1
        assert reading.resolve("shouted").damage() == []
        for changing in (lambda: shout(reading, docs, "new"), lambda: reading.refs.rename("docs", "x")):
            with pytest.raises(OSError, match="Permission denied"):
                changing()

    as_nobody(work)
    assert sorted(path for path in store.root.rglob("*")) == before


@needs_root
def test_a_lock_of_another_user_is_taken_for_reading(tmp_path: Path, reachable: None) -> None:
    path = tmp_path / "lock"
    path.touch(0o644)

    def work() -> None:
        with locked(path):
            assert is_locked(path)
        assert not is_locked(path)

    as_nobody(work)


@pytest.fixture
def other_disk(store: Store) -> Path:
    """The folder of the documents is on another disk."""
    disk = Path("/dev/shm")
    store.root.mkdir(parents=True)
    if not disk.is_dir() or disk.stat().st_dev == store.root.stat().st_dev:
        pytest.skip("no second file system for the test")
    target = disk / f"longcat-test-{os.getpid()}"
    target.mkdir()
    (store.root / "documents").symlink_to(target)
    yield target
    for path in sorted(target.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    target.rmdir()


def test_a_folder_on_another_disk_is_reported_before_the_work(session: Session, other_disk: Path) -> None:
    with pytest.raises(LongcatError, match="must be on one disk") as caught:
        run_stage(session, "toy.write", {})
    assert caught.value.where == str(session.store.root / "documents")
    assert not list(session.store.root.glob(".staging/*/work/calls"))
    assert list(other_disk.iterdir()) == []


def test_a_store_can_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
    artifact = run_stage(session_on(Store(tmp_path / "store")), "toy.write", {}, publish_as="docs").artifact
    assert artifact.damage() == []
