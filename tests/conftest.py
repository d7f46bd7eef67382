"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# Spawned workers unpickle functions of test modules. Last on the path: `kernels` may be another distribution's name.
sys.path.append(str(Path(__file__).parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Triton decides when it decorates a kernel whether to interpret it, so this must precede every import of one.
os.environ["TRITON_INTERPRET"] = "1"

import longcat.stages  # noqa: F401  declares the stages
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session
from longcat.pipeline.runner import run_stage as run
from longcat.pipeline.store import Store

RunStage = Callable[..., Artifact]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def session(store: Store) -> Session:
    """A session on the empty store, one worker."""
    return Session(store, engine=LocalEngine(workers=1))


@pytest.fixture
def run_stage(session: Session) -> RunStage:
    """Run a stage by name and return its artifact."""

    def run_by_name(
        name: str, config: Mapping[str, Any], inputs: Mapping[str, Any] | None = None, publish_as: str | None = None
    ) -> Artifact:
        return run(session, name, config, inputs, publish_as).artifact

    return run_by_name


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real inputs beside the checkout; tests that need them skip where they are absent."""
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
