"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# Spawned workers unpickle functions of test modules. Appended last: another distribution may provide `kernels`.
sys.path.append(str(Path(__file__).parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Triton decides at decoration time whether to interpret a kernel, so this must precede every kernel import.
if "LONGCAT_TEST_DEVICE" not in os.environ:
    os.environ["TRITON_INTERPRET"] = "1"

import longcat.stages  # noqa: F401  registers the stages
from longcat.pipeline.artifact import Artifact, Manifest
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session
from longcat.pipeline.runner import run_stage as run
from longcat.pipeline.store import Store

RunStage = Callable[..., Artifact]
MakeManifest = Callable[..., Manifest]
PublishArtifact = Callable[..., Artifact]


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Describe unequal large bytes briefly; pytest's own difference of two files takes longer than a test may."""
    if op != "==" or not isinstance(left, bytes) or not isinstance(right, bytes) or len(left) + len(right) < 4096:
        return None
    first = next((place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    where = "one is the start of the other" if first is None else f"the first difference is at byte {first}"
    return [f"{len(left)} bytes == {len(right)} bytes", where]


@pytest.fixture(autouse=True)
def fresh_process() -> None:
    """Undo changes of the logger and environment that commands, ranks and engines make in this process."""
    logger = logging.getLogger("longcat")
    logger.setLevel(logging.NOTSET)
    logger.propagate, logger.handlers = True, []
    os.environ.pop("PYTHONSAFEPATH", None)
    # Inference and training make the processor flush subnormal numbers, which other tests draw.
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def session(store: Store) -> Session:
    """A session on the empty store with one worker."""
    return Session(store, engine=LocalEngine(workers=1))


@pytest.fixture
def run_stage(session: Session) -> RunStage:
    """Run a stage by name and return its artifact."""

    def run_by_name(
        name: str, config: Mapping[str, Any], inputs: Mapping[str, Any] | None = None, publish_as: str | None = None
    ) -> Artifact:
        return run(session, name, config, inputs, publish_as).artifact

    return run_by_name


@pytest.fixture
def make_manifest() -> MakeManifest:
    """Make a manifest with only the given fields."""

    def make(identifier: str, kind: str, stage: str, **given: Any) -> Manifest:
        empty = {name: {} for name in ("inputs", "sources", "config", "counts", "metrics", "performance")}
        fields = {"revision": 1, "seed": 0, "code_version": "", "environment": {}, "files": [], **empty}
        ended = {"started": "2025-01-01T00:00:00Z", "duration_seconds": 0.0}
        return Manifest(id=identifier, kind=kind, stage=stage, **{**fields, **ended, **given})

    return make


@pytest.fixture
def publish_artifact(store: Store, make_manifest: MakeManifest) -> PublishArtifact:
    """Publish an artifact with the files written by `fill`, without running its stage; see `make_manifest`."""

    def publish(identifier: str, kind: str, stage: str, fill: Callable[[Path], object], **given: Any) -> Artifact:
        with store.making(identifier) as staging:
            fill(staging.output)
            manifest = make_manifest(identifier, kind, stage, files=store.seal(staging), **given)
            return store.publish(staging, manifest)

    return publish


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real inputs next to the checkout; tests that need it are skipped if it is missing."""
    root = Path(os.environ.get("LONGCAT_SHARED_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real inputs at {root} (set LONGCAT_SHARED_DATA)")
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their number, because parallel test processes must name a test alike, and bytes may hold a time."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
