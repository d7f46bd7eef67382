"""An id identifies the content that was read: changing sources, stores inside inputs, non-UTF-8 names, other stores."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from longcat.cli.app import run
from longcat.pipeline import sources
from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import InputError
from longcat.pipeline.files import canonical_json, pretty_json, read_json
from longcat.pipeline.runner import Session, execute, plan_named, run_stage
from longcat.pipeline.sources import fingerprint_paths, plain_files
from longcat.pipeline.stage import Context, Result, stage
from longcat.pipeline.store import Store

meddle: list[Callable[[], object]] = []


class ReadConfig(StageConfig):
    paths: list[str] = Field(default_factory=list, description="outside files")


def read_one(task: dict[str, str]) -> dict[str, Any]:
    from longcat.pipeline.files import atomic_write

    for action in meddle:
        action()
    atomic_write(Path(task["target"]), Path(task["path"]).read_bytes())
    return {}


@stage("toy.read", revision=1, inputs={}, output="report", sources=lambda config: fingerprint_paths(config.paths))
def read(context: Context[ReadConfig]) -> Result:
    """Copy outside files."""
    tasks = [
        {"path": path, "target": str(context.output / str(number))} for number, path in enumerate(context.config.paths)
    ]
    context.map_shards(read_one, tasks, description="reading")
    return Result()


@pytest.fixture(autouse=True)
def undisturbed() -> None:
    meddle.clear()
    sources._known.clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("old")
    return path


def settle(path: Path) -> None:
    """Make a file old enough for its digest to be cached."""
    os.utime(path, (1, 1))


def test_a_file_changed_after_the_plan_is_an_error(session: Session, file: Path) -> None:
    plan = plan_named(session, "toy.read", {"paths": [str(file)]})
    file.write_text("new")
    with pytest.raises(InputError, match="changed during use") as caught:
        execute(plan, session)
    assert caught.value.where == str(file)
    assert session.store.artifacts() == []
    file.write_text("old")
    assert not execute(plan, session).reused


@pytest.mark.parametrize("change", ["same size", "shorter", "gone"])
def test_a_file_that_changes_while_it_is_read_is_an_error(session: Session, file: Path, change: str) -> None:
    def act() -> None:
        meddle.clear()
        file.write_text({"same size": "new", "shorter": "x", "gone": "y"}[change])
        if change == "gone":
            file.rename(file.with_name("away"))

    second = file.with_name("second")
    second.write_text("2")
    config = {"paths": [str(second), str(file)]}
    meddle.append(act)
    with pytest.raises((InputError, FileNotFoundError)):
        run_stage(session, "toy.read", config)
    assert session.store.artifacts() == []
    file.write_text("old")
    artifact = run_stage(session, "toy.read", config).artifact
    assert (artifact.path / "1").read_text() == "old"


def test_progress_of_other_content_is_not_used(session: Session, file: Path) -> None:
    """The file changes, the run is killed, and the file gets its old content again."""
    second = file.with_name("second")
    second.write_text("2")
    config = {"paths": [str(file), str(second)]}
    plan = plan_named(session, "toy.read", config)
    steps = [lambda: file.write_text("new"), lambda: 1 / 0]

    def next_step() -> None:
        steps.pop(0)()

    meddle.append(next_step)
    with pytest.raises(ZeroDivisionError):
        execute(plan, session)
    meddle.clear()
    file.write_text("old")
    artifact = execute(plan_named(session, "toy.read", config), session).artifact
    assert (artifact.path / "0").read_text() == "old"


def test_progress_of_unchanged_files_is_used(session: Session, file: Path) -> None:
    settle(file)
    config = {"paths": [str(file), str(file)]}
    calls = []
    meddle.append(lambda: calls.append(1) if not calls else calls.append(1 / 0))
    with pytest.raises(ZeroDivisionError):
        run_stage(session, "toy.read", config)
    meddle[:] = [lambda: calls.append(2)]
    run_stage(session, "toy.read", config)
    assert calls == [1, 2]


def test_a_digest_is_cached(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = sources.sha256_file
    monkeypatch.setattr(sources, "sha256_file", lambda path: (read.append(path), original(path))[1])
    first = fingerprint_paths([file])
    assert fingerprint_paths([file]) == first
    assert len(read) == 2  # it had just been written, so it could change within the time resolution
    monkeypatch.setattr(sources, "SETTLED_NS", 0)
    for _ in range(3):
        assert fingerprint_paths([file]) == first
    assert len(read) == 3
    file.write_text("new")
    assert fingerprint_paths([file]) != first


@pytest.mark.parametrize("change", ["add", "remove", "rename", "content"])
def test_a_folder_changes_with_its_content(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a").write_text("1")
    before = fingerprint_paths([folder])
    if change == "add":
        (folder / "b").touch()
    elif change == "remove":
        (folder / "below" / "a").unlink()
    elif change == "rename":
        (folder / "below" / "a").rename(folder / "below" / "c")
    else:
        (folder / "below" / "a").write_text("2")
    assert fingerprint_paths([folder]) != before


def documents(folder: Path, count: int = 5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": f"The river {n} runs slowly past the mill."}) for n in range(count))
    (folder / "a.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("given", [".", "../here", "", "*"])
def test_the_store_never_reads_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], given: str
) -> None:
    folder = tmp_path / "here"
    documents(folder)
    monkeypatch.chdir(folder)
    found = []
    for _ in range(2):
        assert run(["-q", "data", "extract", "--input", given or str(folder), "--name", "a", "--json"]) == 0
        found.append(json.loads(capfd.readouterr().out))
    assert [answer["reused"] for answer in found] == [False, True]
    assert found[0]["counts"]["documents_in"] == 5


def test_a_store_is_not_a_valid_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    documents(tmp_path / "in")
    store = tmp_path / "store"
    assert run(["--store", str(store), "-q", "data", "extract", "--input", str(tmp_path / "in")]) == 0
    assert run(["--store", str(store), "-q", "data", "extract", "--input", str(store)]) == 3
    assert "is a store" in capfd.readouterr().err
    assert list(plain_files(tmp_path)) == [tmp_path / "in" / "a.jsonl"]


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ids = set()
    for place in ("one", "two"):
        folder = tmp_path / place / "d"
        folder.mkdir(parents=True)
        Path(os.fsdecode(os.fsencode(folder) + b"/lat\xe9in.txt")).write_bytes(b"Some text that is long enough.")
        store = ["--store", str(tmp_path / "store"), "-q"]
        capfd.readouterr()
        assert run([*store, "data", "extract", "--input", str(folder), "--name", "d", "--json"]) == 0
        answer = json.loads(capfd.readouterr().out)
        ids.add(fingerprint_paths([folder])[str(folder)])
        named = os.fsdecode(os.fsencode(folder) + b"/lat\xe9in.txt")
        assert run([*store, "data", "extract", "--input", named, "--name", "file"]) == 0
        for command in (["show", "file"], ["show", "file", "--json"], ["lineage", "file"], ["list"], ["verify"]):
            assert run([*store, "artifacts", *command]) == 0
        assert answer["counts"]["documents_out"] == 1
    assert len(ids) == 1


def test_json_keeps_the_bytes_of_file_names(tmp_path: Path) -> None:
    value = {os.fsdecode(b"lat\xe9in"): ["größe", os.fsdecode(b"\xff")]}
    for write in (canonical_json, pretty_json):
        path = tmp_path / "x.json"
        path.write_bytes(write(value))
        path.read_bytes().decode("utf-8")
        assert read_json(path, file_names=True) == value
        with pytest.raises(ValueError, match="surrogate"):
            read_json(path)
    assert canonical_json("größe") == '"größe"'.encode()


def test_an_artifact_of_another_store_is_an_input(session: Session, tmp_path: Path) -> None:
    theirs = Session(Store(tmp_path / "theirs"))
    docs = run_stage(theirs, "toy.write", {}, publish_as="docs").artifact
    ours = run_stage(session, "toy.upper", {}, {"documents": str(docs.path)}, "shouted").artifact
    assert [item.id for item in ours.manifest.ancestors()] == [docs.id]
    assert run(["--store", str(session.store.root), "artifacts", "verify"]) == 0
    # The same artifact as from a copy.
    again = Session(Store(tmp_path / "again"))
    shutil.copytree(docs.path, again.store.folder(docs.kind, docs.id))
    copied = run_stage(again, "toy.upper", {}, {"documents": docs.id}).artifact
    assert (copied.id, copied.manifest.files) == (ours.id, ours.manifest.files)
    (docs.path / "shard-00000.jsonl.zst").write_bytes(b"")
    with pytest.raises(Exception, match="damaged"):
        run_stage(session, "toy.upper", {"suffix": "!"}, {"documents": str(docs.path)})


def test_a_recipe_checks_its_later_steps_when_they_run(session: Session, file: Path, tmp_path: Path) -> None:
    from longcat.pipeline.recipe import load_recipe, plan_recipe, run_steps

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: r\nsteps:\n  first:\n    stage: toy.write\n  second:\n    stage: toy.read\n"
        f"    config: {{paths: ['{file}']}}\n"
    )
    steps = plan_recipe(load_recipe(recipe), session.store)
    file.write_text("new")
    with pytest.raises(InputError, match="changed during use"):
        run_steps(steps, session)
    assert session.store.refs.names() == ["first"]
