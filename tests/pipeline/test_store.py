"""Artifacts are complete or absent, found by every kind of reference, and named in versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from longcat.pipeline.artifact import MANIFEST_NAME, artifact_id
from longcat.pipeline.errors import BusyError, IntegrityError, MissingArtifactError, UsageError
from longcat.pipeline.gc import Options, collect, survey
from longcat.pipeline.lineage import ancestry, difference, document_flows, lineage
from longcat.pipeline.lock import locked
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store


def test_an_artifact_has_a_manifest_with_its_files_hashed(session: Session) -> None:
    artifact = run_stage(session, "toy.write", {}).artifact
    manifest = json.loads((artifact.path / MANIFEST_NAME).read_text())
    assert [f["path"] for f in manifest["files"]] == ["shard-00000.jsonl.zst", "shard-00001.jsonl.zst"]
    assert manifest["counts"] == {"documents_out": 6}
    assert artifact.damage() == []
    assert not session.store.staging(artifact.id).folder.exists()


def test_the_id_depends_on_everything_that_determines_the_bytes() -> None:
    base = artifact_id("s", 1, {"a": 1}, {"x": ["1"]}, {})
    others = [
        artifact_id("t", 1, {"a": 1}, {"x": ["1"]}, {}),
        artifact_id("s", 2, {"a": 1}, {"x": ["1"]}, {}),
        artifact_id("s", 1, {"a": 2}, {"x": ["1"]}, {}),
        artifact_id("s", 1, {"a": 1}, {"x": ["2"]}, {}),
        artifact_id("s", 1, {"a": 1}, {"x": ["1"]}, {"file": "abc"}),
    ]
    assert len({base, *others}) == 6
    assert base == artifact_id("s", 1, {"a": 1}, {"x": ["1"]}, {})


def test_references(session: Session) -> None:
    first = run_stage(session, "toy.write", {"count": 1}, publish_as="docs").artifact
    second = run_stage(session, "toy.write", {"count": 2}, publish_as="docs").artifact
    resolve = session.store.resolve
    assert resolve("docs").id == resolve("docs@latest").id == resolve("docs@2").id == second.id
    assert resolve("docs@1").id == first.id
    assert resolve(first.id[:6]).id == first.id
    assert resolve(str(first.path)).id == first.id
    for unknown in ("nothing", "docs@3", "docs@x", "0123456789abcdef", "/no/such/folder"):
        with pytest.raises(MissingArtifactError):
            resolve(unknown)


def test_a_version_is_added_only_when_the_artifact_changes(session: Session) -> None:
    for count in (1, 1, 2, 1):
        run_stage(session, "toy.write", {"count": count}, publish_as="docs")
    assert len(session.store.refs.versions("docs")) == 3


@pytest.mark.parametrize("name", ["", "1a", "../x", "a/b", "a b", "x" * 101])
def test_names_with_paths_outside_the_store_are_refused(session: Session, name: str) -> None:
    with pytest.raises(UsageError):
        run_stage(session, "toy.write", {}, publish_as=name)


def test_a_damaged_names_file_is_an_integrity_error(session: Session) -> None:
    run_stage(session, "toy.write", {}, publish_as="docs")
    (session.store.root / "refs" / "docs.json").write_text("{")
    with pytest.raises(IntegrityError, match="versions of 'docs'"):
        session.store.resolve("docs")


@pytest.mark.parametrize("harm", ["delete", "shorten", "flip"])
def test_damage_to_an_input_is_found_before_it_is_used(session: Session, harm: str) -> None:
    artifact = run_stage(session, "toy.write", {}).artifact
    victim = artifact.file("shard-00000.jsonl.zst")
    data = bytearray(victim.read_bytes())
    if harm == "delete":
        victim.unlink()
    elif harm == "shorten":
        victim.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    with pytest.raises(IntegrityError, match="shard-00000"):
        run_stage(session, "toy.upper", {}, {"documents": artifact.id})


def test_a_damaged_manifest_is_an_integrity_error(session: Session) -> None:
    artifact = run_stage(session, "toy.write", {}).artifact
    (artifact.path / MANIFEST_NAME).write_text('{"id": 1}')
    with pytest.raises(IntegrityError, match="manifest cannot be read"):
        run_stage(session, "toy.write", {})


def test_gc_removes_damage_and_the_next_run_repairs(session: Session) -> None:
    artifact = run_stage(session, "toy.write", {}, publish_as="docs").artifact
    artifact.file("shard-00001.jsonl.zst").write_bytes(b"")
    (item,) = collect(session.store, Options(damaged=True)).garbage
    assert item.kept == "in use by a live process"
    session.store.live.close()
    (item,) = collect(session.store, Options(damaged=True)).garbage
    assert item.kept is None
    assert not artifact.path.exists()
    assert run_stage(session, "toy.write", {}, publish_as="docs").artifact.damage() == []


def test_gc_keeps_the_ancestors_of_a_named_artifact(session: Session) -> None:
    base = run_stage(session, "toy.write", {"count": 1}).artifact
    kept = run_stage(session, "toy.upper", {}, {"documents": base.id}, "shouted").artifact
    loose = run_stage(session, "toy.write", {"count": 9}).artifact
    session.store.live.close()
    assert {item.path for item in survey(session.store, Options()).garbage} == {loose.path}
    run_stage(session, "toy.upper", {"suffix": "!"}, {"documents": base.id}, "shouted")
    session.store.live.close()
    found = survey(session.store, Options(keep_versions=1)).garbage
    assert {item.path for item in found} == {loose.path, kept.path}


def test_gc_keeps_the_progress_of_a_live_run(session: Session) -> None:
    store = session.store
    with store.making("0" * 16):
        assert survey(store, Options(unfinished=True)).garbage == []
    assert survey(store, Options()).garbage == []
    (run,) = survey(store, Options()).unfinished
    assert (run.id, run.active) == ("0" * 16, False)
    (item,) = survey(store, Options(unfinished=True)).garbage
    assert item.reason == "progress of an unfinished run: unknown stage"


def test_lineage_goes_down_to_the_first_artifact(session: Session) -> None:
    base = run_stage(session, "toy.write", {}, publish_as="docs").artifact
    top = run_stage(session, "toy.upper", {}, {"documents": "docs"}, "shouted").artifact
    tree = lineage(session.store, top)
    assert tree["names"] == ["shouted@1"]
    assert tree["inputs"][0]["id"] == base.id
    assert tree["inputs"][0]["role"] == "documents"
    shutil.rmtree(base.path)
    assert lineage(session.store, top)["inputs"][0]["missing"] is True


def test_ancestry_has_inputs_first_and_each_artifact_once(session: Session) -> None:
    base = run_stage(session, "toy.write", {}).artifact
    one, two = (run_stage(session, "toy.upper", {"suffix": sign}, {"documents": base.id}).artifact for sign in "!?")
    top = run_stage(session, "toy.join", {}, {"parts": [two, one]}).artifact
    assert [item.id for item in ancestry(session.store, top)] == [base.id, two.id, one.id, top.id]
    assert document_flows([base, top]) == []
    shutil.rmtree(base.path)
    assert [item.id for item in ancestry(session.store, top)] == [two.id, one.id, top.id]


def test_difference_names_configuration_counts_and_files(session: Session) -> None:
    one = run_stage(session, "toy.write", {"count": 1}).artifact
    two = run_stage(session, "toy.write", {"count": 2}).artifact
    changes = difference(one, two)
    assert changes["config"] == {"count": [1, 2]}
    assert changes["counts"] == {"documents_out": [2, 4]}
    assert set(changes["files"]) == {"shard-00000.jsonl.zst", "shard-00001.jsonl.zst"}
    assert difference(one, one) == {}


def test_an_artifact_being_made_by_another_process_is_busy(store: Store, tmp_path: Path) -> None:
    with store.making("f" * 16), pytest.raises(BusyError), store.making("f" * 16, wait=False):
        pass
    with locked(tmp_path / "lock"):
        pass
    with locked(tmp_path / "lock", wait=False):
        pass
