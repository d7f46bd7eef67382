"""Artifacts are copied between stores completely, with their names, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

BUCKET = "memory://bucket/store"


@pytest.fixture
def shouted(session: Session) -> Artifact:
    base = run_stage(session, "toy.write", {}, publish_as="docs").artifact
    return run_stage(session, "toy.upper", {}, {"documents": base.id}, "shouted").artifact


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def artifacts(store: Store, *arguments: str) -> int:
    return run(["--store", str(store.root), "-q", "artifacts", *arguments])


def test_a_copy_has_the_same_name_and_files(store: Store, other: Store, shouted: Artifact) -> None:
    assert artifacts(store, "copy", "shouted", str(other.root)) == 0
    found = other.resolve("shouted")
    assert found.manifest == shouted.manifest
    assert found.damage() == []
    # Its inputs were not copied on purpose, which is not damage.
    assert artifacts(other, "verify") == 0
    assert [artifact.id for artifact in other.artifacts()] == [shouted.id]
    assert not other.staging(shouted.id).folder.exists()


def test_a_copy_with_its_inputs(store: Store, other: Store, shouted: Artifact) -> None:
    assert artifacts(store, "copy", "shouted", str(other.root), "--with-inputs", "--name", "ours") == 0
    assert {artifact.id for artifact in other.artifacts()} == {artifact.id for artifact in store.artifacts()}
    assert other.refs.names() == ["ours"]
    assert artifacts(other, "verify") == 0


def test_a_second_copy_moves_nothing(
    store: Store, other: Store, shouted: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    for present in (False, True):
        assert artifacts(store, "copy", "shouted", str(other.root), "--json") == 0
        (item,) = json.loads(capfd.readouterr().out)["artifacts"]
        assert item["present"] is present
    assert len(other.refs.versions("shouted")) == 1


@pytest.mark.parametrize("harm", ["flip", "shorten", "lengthen"])
def test_damage_is_not_copied(store: Store, other: Store, shouted: Artifact, harm: str) -> None:
    victim = shouted.path / "shard-00001.jsonl.zst"
    data = victim.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    victim.write_bytes({"flip": flipped, "shorten": data[:-1], "lengthen": data + b"x"}[harm])
    assert artifacts(store, "copy", "shouted", str(other.root)) == 5
    assert other.artifacts() == []
    assert other.refs.names() == []


def test_there_and_back_through_an_object_store(
    store: Store, other: Store, shouted: Artifact, bucket: fsspec.AbstractFileSystem
) -> None:
    assert artifacts(store, "push", "shouted", BUCKET, "--with-inputs") == 0
    assert artifacts(other, "pull", BUCKET, "shouted", "--with-inputs") == 0
    found = other.resolve("shouted")
    assert found.manifest == shouted.manifest
    assert len(other.artifacts()) == 2
    assert artifacts(other, "verify") == 0
    assert artifacts(other, "pull", BUCKET, "nothing") == 4
    assert artifacts(other, "pull", BUCKET, shouted.id, "--name", "by-id") == 0
    assert other.resolve("by-id").id == shouted.id


def test_the_manifest_is_sent_last(
    store: Store, other: Store, shouted: Artifact, bucket: fsspec.AbstractFileSystem
) -> None:
    (shouted.path / "shard-00001.jsonl.zst").write_bytes(b"")
    assert artifacts(store, "push", "shouted", BUCKET) == 5
    assert not any(path.endswith("manifest.json") for path in bucket.store)
    assert artifacts(other, "pull", BUCKET, "shouted") == 4


def test_damage_in_an_object_store_is_not_copied(
    store: Store, other: Store, shouted: Artifact, bucket: fsspec.AbstractFileSystem
) -> None:
    assert artifacts(store, "push", "shouted", BUCKET) == 0
    path = f"/bucket/store/documents/{shouted.id}/shard-00000.jsonl.zst"
    for content, code in ((b"short", 5), (None, 3)):
        if content is None:
            bucket.rm(path)
        else:
            bucket.pipe_file(path, content)
        assert artifacts(other, "pull", BUCKET, "shouted") == code
        assert other.artifacts() == []


@pytest.mark.parametrize("values", [{"id": "../../x"}, {"files": [{"path": "../x", "size": 1, "sha256": ""}]}])
def test_a_hostile_manifest_is_refused(
    store: Store, other: Store, shouted: Artifact, bucket: fsspec.AbstractFileSystem, values: dict[str, object]
) -> None:
    assert artifacts(store, "push", "shouted", BUCKET) == 0
    path = f"/bucket/store/documents/{shouted.id}/manifest.json"
    bucket.pipe_file(path, json.dumps(json.loads(bucket.cat_file(path)) | values).encode())
    assert artifacts(other, "pull", BUCKET, "shouted") == 5
    assert other.artifacts() == []


@pytest.mark.parametrize("target", ["http://127.0.0.1/x", "nonsense://x/y"])
def test_targets_that_are_not_stores_are_refused(store: Store, shouted: Artifact, target: str) -> None:
    assert artifacts(store, "push", "shouted", target) == 2


def test_a_folder_is_a_target_and_a_source_too(store: Store, other: Store, shouted: Artifact, tmp_path: Path) -> None:
    assert artifacts(store, "push", "shouted", str(tmp_path / "third")) == 0
    assert artifacts(other, "pull", f"file://{tmp_path / 'third'}", "shouted") == 0
    assert other.resolve("shouted").manifest == shouted.manifest
    assert artifacts(other, "pull", str(tmp_path / "nothing"), "shouted") == 4
