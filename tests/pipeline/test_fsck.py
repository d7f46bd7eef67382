"""One bad file affects only itself: listings name it and continue, `verify` fails for it, `fsck --repair` fixes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import MANIFEST_NAME, Artifact
from longcat.pipeline.gc import Options, collect
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

Command = Any


@pytest.fixture
def longcat(session: Session, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command on the store; return exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        session.store.live.close()
        code = run(["--store", str(session.store.root), *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def docs(session: Session) -> Artifact:
    return run_stage(session, "toy.write", {}, publish_as="docs").artifact


@pytest.fixture
def shouted(session: Session, docs: Artifact) -> Artifact:
    return run_stage(session, "toy.upper", {}, {"documents": docs.id}, "shouted").artifact


BROKEN_MANIFESTS = ["", "{", "[" * 100_000, '{"id": 1}', "null"]


@pytest.mark.parametrize("text", BROKEN_MANIFESTS)
def test_a_broken_manifest_affects_only_its_artifact(
    longcat: Command, docs: Artifact, shouted: Artifact, text: str
) -> None:
    (docs.path / MANIFEST_NAME).write_text(text)
    code, out, err = longcat("artifacts", "list")
    assert code == 0
    assert shouted.id in out
    assert err.count("\n") == 1
    assert docs.id in err
    code, out, err = longcat("artifacts", "verify")
    assert code == 5
    assert f"documents/{shouted.id}" in out
    assert f"{docs.path}: the manifest cannot be read" in out
    assert longcat("artifacts", "show", "shouted")[0] == 0
    assert longcat("artifacts", "lineage", "shouted")[0] == 0
    # The second copy repairs it.
    assert longcat("artifacts", "fsck", "--repair")[0] == 0
    assert longcat("artifacts", "verify")[0] == 0
    assert docs.damage() == []


def test_a_missing_manifest_is_damage_and_is_repaired(longcat: Command, docs: Artifact) -> None:
    (docs.path / MANIFEST_NAME).unlink()
    code, out, _ = longcat("artifacts", "verify")
    assert code == 5
    assert f"{docs.path}: the manifest is missing" in out
    assert longcat("artifacts", "fsck", "--repair")[0] == 0
    assert docs.damage() == []


def test_a_manifest_is_not_written_to_files_that_changed(longcat: Command, docs: Artifact) -> None:
    (docs.path / MANIFEST_NAME).unlink()
    victim = docs.path / "shard-00000.jsonl.zst"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    code, out, _ = longcat("artifacts", "fsck", "--repair")
    assert code == 5
    assert "failed" in out


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", '{"versions": 3}', '{"versions": [{"id": "x"}]}'])
def test_broken_names_affect_only_themselves(longcat: Command, docs: Artifact, shouted: Artifact, text: str) -> None:
    path = docs.path.parents[1] / "refs" / "docs.json"
    before = path.read_bytes()
    path.write_text(text)
    code, out, _ = longcat("artifacts", "list")
    assert code == 0
    assert docs.id in out
    assert shouted.id in out
    assert longcat("artifacts", "show", "shouted")[0] == 0
    assert longcat("artifacts", "show", "docs")[0] == 5
    code, out, _ = longcat("artifacts", "verify")
    assert code == 5
    assert "the versions of 'docs' cannot be read" in out
    assert longcat("artifacts", "gc", "--yes")[0] == 5
    assert longcat("artifacts", "fsck", "--repair")[0] == 0
    assert path.read_bytes() == before


def test_names_of_several_versions_are_recovered_from_the_logs(longcat: Command, session: Session) -> None:
    ids = [run_stage(session, "toy.write", {"count": n}, publish_as="docs").artifact.id for n in (1, 2, 1, 3)]
    (session.store.root / "refs" / "docs.json").write_text("{")
    longcat("artifacts", "fsck", "--repair")
    assert [version.id for version in session.store.refs.versions("docs")] == ids


@pytest.mark.parametrize("name", ["._docs.json", "docs copy.json", "1.json", ".DS_Store", "docs.json~", "Ä.json"])
def test_files_that_are_not_names_are_ignored(longcat: Command, docs: Artifact, name: str) -> None:
    (docs.path.parents[1] / "refs" / name).write_text("x")
    (docs.path.parent / name).write_text("x")
    assert longcat("artifacts", "list")[0] == 0
    code, out, _ = longcat("artifacts", "verify")
    assert code == 0
    assert f"note: {docs.path.parents[1] / 'refs' / name}: is not a name file" in out
    assert f"note: {docs.path.parent / name}: is not an artifact" in out
    assert longcat("artifacts", "gc", "--yes")[0] == 0
    assert (docs.path.parent / name).exists()


def test_a_name_of_a_missing_artifact_is_damage(longcat: Command, docs: Artifact) -> None:
    shutil.rmtree(docs.path)
    code, out, _ = longcat("artifacts", "verify")
    assert code == 5
    assert f"damage: docs@1: leads to documents/{docs.id}, which is missing" in out


def test_a_missing_input_is_damage(longcat: Command, session: Session) -> None:
    base = run_stage(session, "toy.write", {}).artifact
    top = run_stage(session, "toy.upper", {}, {"documents": base.id}, "shouted").artifact
    shutil.rmtree(base.path)
    code, out, _ = longcat("artifacts", "verify")
    assert code == 5
    assert f"damage: {top.path}: its input documents/{base.id} is missing" in out
    # Its manifest still has its inputs.
    code, out, _ = longcat("artifacts", "lineage", "shouted", "--json")
    (node,) = json.loads(out)["inputs"]
    assert (node["missing"], node["stage"]) == (True, "toy.write")


def test_needed_artifacts_are_restored_from_quarantine(longcat: Command, session: Session) -> None:
    base = run_stage(session, "toy.write", {}).artifact
    run_stage(session, "toy.upper", {}, {"documents": base.id}, "shouted")
    session.store.quarantine(base.path, base.kind, base.id, "by mistake")
    assert longcat("artifacts", "verify")[0] == 5
    assert longcat("artifacts", "fsck", "--repair")[0] == 0
    assert base.damage() == []


def test_foreign_files_in_an_artifact_are_moved_away(longcat: Command, docs: Artifact) -> None:
    (docs.path / ".DS_Store").write_bytes(b"x")
    (docs.path / "link").symlink_to("/etc")
    assert longcat("artifacts", "verify")[0] == 5
    assert longcat("artifacts", "fsck", "--repair")[0] == 0
    assert longcat("artifacts", "verify")[0] == 0
    assert not (docs.path / ".DS_Store").exists()


@pytest.mark.parametrize("command", ["list", "verify", "fsck", "gc", "restore", "show x", "lineage x", "diff x y"])
def test_a_missing_store_is_an_error(capfd: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    assert run(["--store", str(tmp_path / "nothing"), "artifacts", *command.split()]) == 4
    out, err = capfd.readouterr()
    assert out == ""
    assert str(tmp_path / "nothing") in err
    assert not (tmp_path / "nothing").exists()


def test_verify_as_json_names_everything(longcat: Command, session: Session, docs: Artifact) -> None:
    other = run_stage(session, "toy.write", {"count": 5}, publish_as="other").artifact
    shutil.rmtree(other.path)
    code, out, _ = longcat("artifacts", "verify", "--json")
    answer = json.loads(out)
    assert code == 5
    assert [(item["id"], item["whole"]) for item in answer["artifacts"]] == [(docs.id, True)]
    assert [(item["where"], item["damage"]) for item in answer["findings"]] == [("other@1", True)]


def test_artifacts_of_a_newer_version_are_a_note(longcat: Command, docs: Artifact, shouted: Artifact) -> None:
    path = docs.path / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 9, "license": "x"}))
    code, out, err = longcat("artifacts", "list")
    assert code == 0
    assert "made by a newer longcat" in err
    code, out, _ = longcat("artifacts", "verify")
    assert code == 0
    assert f"note: {docs.path}: made by a newer longcat" in out
    longcat("artifacts", "fsck", "--repair")
    assert json.loads(path.read_text())["license"] == "x"


def test_a_damaged_artifact_is_made_again_after_gc_damaged(session: Session, longcat: Command, docs: Artifact) -> None:
    (docs.path / "shard-00000.jsonl.zst").write_bytes(b"")
    assert longcat("artifacts", "verify")[0] == 5
    assert longcat("artifacts", "gc", "--damaged", "--yes")[0] == 0
    assert longcat("artifacts", "verify")[0] == 5  # the name has no artifact until it is made again
    again = run_stage(session, "toy.write", {}, publish_as="docs")
    assert not again.reused
    assert again.artifact.manifest.files == docs.manifest.files
    assert again.named is not None
    assert again.named.number == 1
    assert longcat("artifacts", "verify")[0] == 0


def test_json_of_gc_names_unfinished_runs(longcat: Command, session: Session, store: Store) -> None:
    with store.making("a" * 16) as staging:
        staging.describe({"stage": "train", "name": "live", "inputs": [], "steps": 400})
        (staging.work / "training" / "checkpoints" / "step-000000311").mkdir(parents=True)
    code, out, _ = longcat("artifacts", "gc", "--json")
    (found,) = json.loads(out)["unfinished"]
    assert code == 0
    assert (found["name"], found["stage"], found["progress"]) == ("live", "train", "step 311 of 400")
    assert found["age_seconds"] < 60
    code, out, _ = longcat("artifacts", "gc", "--yes")
    assert "live: train, step 311 of 400" in out
    assert staging.work.is_dir()
    assert collect(store, Options(unfinished=True)).garbage[0].id == "a" * 16
