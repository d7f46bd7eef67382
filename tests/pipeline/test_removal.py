"""Removal of names and artifacts: version numbers are kept, and artifacts in use are kept."""

from __future__ import annotations

import pytest

from longcat.cli.app import run
from longcat.pipeline.errors import BusyError, MissingArtifactError, UsageError
from longcat.pipeline.removal import remove
from longcat.pipeline.runner import Session, run_stage


def make(session: Session, count: int, name: str | None = "docs") -> str:
    identifier = run_stage(session, "toy.write", {"count": count}, publish_as=name).artifact.id
    session.store.live.close()
    return identifier


def test_removing_a_version_keeps_the_other_numbers(session: Session) -> None:
    store = session.store
    ids = [make(session, count) for count in (1, 2, 3)]
    done = remove(store, "docs@2")
    assert [artifact.id for artifact in done.artifacts] == [ids[1]]
    assert store.resolve("docs@3").id == store.resolve("docs").id == ids[2]
    assert store.resolve("docs@1").id == ids[0]
    with pytest.raises(MissingArtifactError, match="has the versions 1, 3, not '2'"):
        store.resolve("docs@2")
    assert make(session, 2) == ids[1]  # restored
    assert store.resolve("docs@4").id == ids[1]


def test_a_name_is_removed_with_its_artifacts(session: Session) -> None:
    store = session.store
    ids = {make(session, count) for count in (1, 2)}
    done = remove(store, "docs")
    assert {artifact.id for artifact in done.artifacts} == ids
    assert store.refs.names() == []
    assert {item.entry.id for item in store.trash.entries()} == ids


def test_artifacts_with_another_name_or_dependents_are_kept(session: Session) -> None:
    store = session.store
    base = make(session, 1)
    run_stage(session, "toy.upper", {}, {"documents": base}, "shouted")
    session.store.live.close()
    done = remove(store, "docs")
    assert [(artifact.id, why) for artifact, why in done.kept] == [(base, "shouted@1 was made from it")]
    assert store.get("documents", base) is not None
    make(session, 1, "again")
    done = remove(store, "shouted")
    assert len(done.artifacts) == 1
    make(session, 1, "other")
    (kept,) = remove(store, "again").kept
    assert kept[1] == "it is other@1"


def test_an_id_is_refused_while_it_is_referenced(session: Session) -> None:
    base = make(session, 1)
    with pytest.raises(UsageError, match="it is docs@1"):
        remove(session.store, base)
    loose = make(session, 2, None)
    assert [artifact.id for artifact in remove(session.store, loose[:8]).artifacts] == [loose]
    with pytest.raises(MissingArtifactError):
        remove(session.store, "nothing")


def test_artifacts_used_by_a_live_process_are_kept(session: Session) -> None:
    loose = make(session, 2, None)
    session.store.hold([loose])
    with pytest.raises(BusyError, match="in use by a live process"):
        remove(session.store, loose)


def test_renaming_keeps_the_versions(session: Session) -> None:
    store = session.store
    ids = [make(session, count) for count in (1, 2)]
    store.refs.rename("docs", "texts")
    assert [version.id for version in store.refs.versions("texts")] == ids
    assert store.refs.names() == ["texts"]
    make(session, 3, "docs")
    for old, new, error in (
        ("docs", "texts", UsageError),
        ("docs", "../x", UsageError),
        ("nothing", "y", MissingArtifactError),
    ):
        with pytest.raises(error):
            store.refs.rename(old, new)


def test_the_commands(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    root = str(session.store.root)
    first, second = make(session, 1), make(session, 2)
    assert run(["--store", root, "artifacts", "rename", "docs", "texts"]) == 0
    assert run(["--store", root, "artifacts", "pin", "texts@1", "--why", "for the report"]) == 0
    assert run(["--store", root, "artifacts", "remove", "texts"]) == 0
    out = capfd.readouterr().out
    assert f"documents/{first} stays: it is pinned" in out
    assert f"`artifacts restore {second}`" in out
    assert run(["--store", root, "artifacts", "restore", second[:6]]) == 0
    assert run(["--store", root, "artifacts", "restore", second[:6]]) == 4
    assert run(["--store", root, "artifacts", "path", second]) == 0
    assert capfd.readouterr().out.strip().endswith(f"documents/{second}")
    assert run(["--store", root, "artifacts", "unpin", first]) == 0
    assert run(["--store", root, "artifacts", "unpin", first]) == 4
    assert run(["--store", root, "artifacts", "gc", "--yes", "--now"]) == 0
    assert session.store.artifacts() == []
