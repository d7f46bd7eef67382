"""Conversations of other clients with the server: two turns, streamed and not, a tool and a schema.

`make test-clients` installs the clients in the folder LONGCAT_CLIENTS and runs these tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from longcat.stages.inference.engine import InferenceEngine
from tests.stages.serve.scripted import call_text, scripted

HERE = Path(__file__).parent
CLIENTS = Path(os.environ.get("LONGCAT_CLIENTS", "nowhere"))
pytestmark = pytest.mark.skipif(not CLIENTS.is_dir(), reason="`make test-clients` installs the clients")
PYTHON = str(CLIENTS / "bin" / "python")
ANSWERS = [
    *(["on", "e"], ["two"], ["th", "ree"], ["four"]),
    *([call_text("weather", '{"city": "Bern"}')], ["It ", "rains."], ['{"name": ', '"Bern"}']),
]


def talk(
    engine: InferenceEngine, command: Sequence[str], arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a client against a scripted server, and compare what it has read."""
    monkeypatch.setattr(InferenceEngine, "max_length", 4096)
    with scripted(engine) as (server, worker):
        worker.answers = list(ANSWERS)
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [*command, server.url + "/v1", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert worker.answers == []
        # The last turn has the three before it.
        prompt = engine.tokenizer.literal_text(worker.jobs[3].prompts[0])
    print(Path(command[-1]).stem, told.pop("version"))
    assert told == {
        "turns": ["one", "two"],
        "streamed": ["three", "four"],
        "call": ["weather", {"city": "Bern"}],
        "after": "It rains.",
        "city": "Bern",
    }
    assert [prompt.count(f"ASSISTANT:{said}</longcat_s>") for said in ("one", "two", "three")] == [1, 1, 1]
    assert worker.jobs[-1].params.grammar is not None


@pytest.mark.parametrize("client", ["langchain", "litellm", "pydantic_ai"])
def test_python_clients(engine: InferenceEngine, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    talk(engine, [PYTHON, "-P", str(HERE / f"conversation_{client}.py")], [], monkeypatch)


def test_openai_js(engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    talk(engine, [node, str(HERE / "conversation_openai.mjs")], [str(CLIENTS / "node")], monkeypatch)
