"""schemathesis over the whole OpenAPI page, with all its checks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve.service import Service

CLIENTS = Path(os.environ.get("LONGCAT_CLIENTS", "nowhere"))
EXAMPLES = os.environ.get("LONGCAT_EXAMPLES", "100")
pytestmark = pytest.mark.skipif(not CLIENTS.is_dir(), reason="`make test-clients` installs the clients")


def check(running: Any, folder: Path, *options: str) -> None:
    command = [str(CLIENTS / "bin" / "schemathesis"), "run", f"{running.url}/openapi.json", "--checks", "all"]
    command += ["--max-examples", EXAMPLES, "--seed", "1", "--request-timeout", "30", "--continue-on-failure", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout[-20_000:]
    print(done.stdout[-1500:])
    with running.client() as client:
        assert 'status="500"' not in client.get("/metrics").text


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("keys", [(), ("secret",)], ids=["open", "keyed"])
def test_every_check_passes(serve: Any, engine: InferenceEngine, keys: tuple[str, ...], tmp_path: Path) -> None:
    headers = [option for key in keys for option in ("--header", f"Authorization: Bearer {key}")]
    check(serve(engine, api_keys=keys, request_seconds=20), tmp_path, *headers)


@pytest.mark.timeout(1800)
def test_requests_that_reach_the_engine(
    serve: Any, engine: InferenceEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any name is the model's. What a schema cannot say, such as the length of a prompt in tokens, may be refused."""
    monkeypatch.setattr(Service, "check_model", lambda *_: None)
    check(serve(engine, request_seconds=20), tmp_path, "--exclude-checks", "positive_data_acceptance")
