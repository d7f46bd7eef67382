"""A manifest is checked when read: its owner, its paths, and that its id matches its content."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from longcat.pipeline.artifact import MANIFEST_NAME, Artifact, load_artifact, without_keys
from longcat.pipeline.config import RUNTIME, StageConfig, identity_values, runtime_keys
from longcat.pipeline.errors import IntegrityError, NewerArtifactError
from longcat.pipeline.runner import Session, run_stage

SHARD = "shard-00000.jsonl.zst"


@pytest.fixture
def artifact(session: Session) -> Artifact:
    return run_stage(session, "toy.write", {}).artifact


def change(artifact: Artifact, **values: Any) -> None:
    path = artifact.path / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "path", ["../x", "/etc/hostname", "a/../../x", "./x", "a//b", "", ".", "..", "a/..", "a/", "a\0b"]
)
def test_a_path_outside_the_artifact_is_refused(artifact: Artifact, path: str) -> None:
    change(artifact, files=[{"path": path, "size": 0, "sha256": "0" * 64}])
    with pytest.raises(IntegrityError, match=r"files\.0\.path: .*points outside the artifact"):
        load_artifact(artifact.path)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "secrets"},
        {"id": "../../victim"},
        {"inputs": {"documents": [{"id": "../x", "kind": "documents"}]}},
        {"inputs": {"documents": [{"id": "0" * 16, "kind": "../x"}]}},
        {"files": [{"path": "a", "size": -1, "sha256": ""}]},
        {"files": [{"path": "a", "size": 1, "sha256": ""}] * 2},
        {"unheard": 1, "seed": "x"},
        {"schema_version": "x"},
    ],
)
def test_invalid_values_in_a_manifest_are_damage(artifact: Artifact, values: dict[str, Any]) -> None:
    change(artifact, **values)
    with pytest.raises(IntegrityError, match="the manifest cannot be read"):
        load_artifact(artifact.path)


@pytest.mark.parametrize("text", ["", "[]", "null", "1", "{}", "[" * 100_000, "\xff", '{"id": NaN}'])
def test_an_invalid_manifest_is_damage(artifact: Artifact, text: str) -> None:
    (artifact.path / MANIFEST_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(IntegrityError, match="the manifest cannot be read"):
        load_artifact(artifact.path)


def test_a_manifest_that_is_a_link_is_not_followed(artifact: Artifact, tmp_path: Path) -> None:
    path = artifact.path / MANIFEST_NAME
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="not a plain file"):
        load_artifact(artifact.path)


@pytest.mark.parametrize("schema", [3, 99])
def test_a_manifest_of_a_newer_version_is_named(artifact: Artifact, schema: int) -> None:
    change(artifact, schema_version=schema, license="x")
    with pytest.raises(NewerArtifactError, match=rf"made by a newer longcat \(schema {schema}\)"):
        load_artifact(artifact.path)


def test_keys_of_a_newer_version_are_not_damage(session: Session, artifact: Artifact) -> None:
    change(artifact, schema_version=2, license="x")
    with pytest.raises(NewerArtifactError, match="made by a newer longcat: it has 'license', which this one does not"):
        load_artifact(artifact.path)
    change(artifact, files=[{"path": "a", "size": 1, "sha256": "", "mode": 7}])
    with pytest.raises(NewerArtifactError, match=r"it has 'files\.0\.mode', 'license'"):
        load_artifact(artifact.path)


def test_a_copy_under_another_id_is_refused(session: Session, artifact: Artifact) -> None:
    other = run_stage(session, "toy.write", {"count": 9}).artifact
    shutil.rmtree(other.path)
    shutil.copytree(artifact.path, other.path)
    with pytest.raises(IntegrityError, match=f"the manifest belongs to documents/{artifact.id}"):
        run_stage(session, "toy.write", {"count": 9})


def test_an_artifact_in_the_folder_of_another_kind_is_refused(session: Session, artifact: Artifact) -> None:
    target = session.store.root / "tokens" / artifact.id
    target.parent.mkdir()
    shutil.copytree(artifact.path, target)
    with pytest.raises(IntegrityError, match="a documents artifact is in the folder of tokens"):
        session.store.get("tokens", artifact.id)


@pytest.mark.parametrize(
    "values",
    [{"revision": 7}, {"stage": "toy.upper"}, {"sources": {"a": "b"}}, {"config": {"count": 4}}],
)
def test_a_manifest_with_the_id_of_another_configuration_is_damage(artifact: Artifact, values: dict[str, Any]) -> None:
    assert artifact.damage() == []
    change(artifact, **values)
    (problem,) = load_artifact(artifact.path).damage()
    assert problem.startswith("manifest.json: its stage, configuration and inputs give the id ")


def test_a_manifest_of_the_first_schema_is_read(artifact: Artifact) -> None:
    path = artifact.path / MANIFEST_NAME
    values = json.loads(path.read_text()) | {"schema_version": 1}
    del values["runtime"]
    path.write_text(json.dumps(values))
    found = load_artifact(artifact.path)
    assert found.damage() == []
    assert "runtime" not in json.loads(found.manifest.to_json())


def link_inside(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def link_out(path: Path) -> None:
    content = path.read_bytes()
    outside = path.parents[3] / "outside"
    outside.write_bytes(content)
    path.unlink()
    path.symlink_to(outside)


@pytest.mark.parametrize("harm", [link_inside, link_out])
def test_a_link_in_place_of_a_file_is_damage(artifact: Artifact, harm: Callable[[Path], None]) -> None:
    harm(artifact.path / SHARD)
    assert f"{SHARD}: missing" in artifact.damage()
    assert artifact.missing_or_resized() == [SHARD]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.symlink_to("/nowhere"), "x: a link, not a plain file"),
        (lambda path: path.symlink_to("/etc"), "x: a link, not a plain file"),
        (os.mkfifo, "x: not a plain file"),
        (lambda path: path.write_bytes(b""), "x: not in the manifest"),
    ],
)
def test_foreign_files_in_an_artifact_are_damage(
    artifact: Artifact, make: Callable[[Path], None], problem: str
) -> None:
    make(artifact.path / "x")
    assert artifact.damage() == [problem]


class Inner(StageConfig):
    kept: int = 1
    memory: int = Field(2, json_schema_extra=RUNTIME)


class Outer(StageConfig):
    workers: int = Field(3, json_schema_extra=RUNTIME)
    inner: Inner = Inner()
    several: list[Inner] = Field(default_factory=lambda: [Inner(), Inner(kept=5)])
    by_name: dict[str, Inner] = Field(default_factory=lambda: {"a.b": Inner()})


def test_the_identity_can_be_computed_from_the_whole_configuration() -> None:
    config = Outer()
    keys = runtime_keys(config)
    assert ("several", 1, "memory") in keys
    assert ("by_name", "a.b", "memory") in keys
    assert without_keys(config.model_dump(mode="json"), keys) == identity_values(config)
