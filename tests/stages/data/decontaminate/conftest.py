"""Documents and a benchmark made in tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

import longcat.stages.data.decontaminate  # noqa: F401  registers the stage
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import StageConfig
from longcat.pipeline.documents import Document, shard_name, write_documents
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import Context, Result, stage

PROSE = """The river rises in the hills to the north of the town and runs for thirty miles before it meets the sea.
In spring the melting snow swells it so far that the lower meadows have to be left to the water for a month.
Farmers along its banks built low walls of stone, and many of those walls still stand after two centuries.
A ferry carried people and cattle across until the first bridge was opened by the mayor in a heavy storm.
Children used to wait there for the boats that brought coal, salt and letters from the harbour.
Nobody living remembers the ferry, but its landing place can be found below the old mill.
Walkers who follow the path upstream come to a pool where herons fish in the early morning light."""

ITEMS = [
    {
        "question": "Carla's bakery sells 14 walnut loaves every weekday, and twice that number on each Saturday. How "
        "many walnut loaves does Carla's bakery sell in four weeks, if it is closed on Sunday?",
        "answer": "She sells 14 * 5 = <<14*5=70>>70 loaves on weekdays and 28 on Saturday, so 98 a week. #### 392",
    },
    {"question": "Which quokka invented the trombone?", "answer": "None."},
    {
        "question": "A lighthouse keeper climbs 120 steps each evening and 95 steps each morning. During a stormy week "
        "he skips two mornings. What is the total number of steps that the keeper climbs in that week?",
        "answer": "In the evenings 840, in the mornings 475, and together that makes 1315 steps for the week.",
    },
]


class _Shards(StageConfig):
    shards: tuple[tuple[dict[str, Any], ...], ...] = Field(default=(), description="Documents of each shard.")


@stage("test.decontaminate.documents", revision=1, inputs={}, output="documents")
def _write(context: Context[_Shards]) -> Result:
    """Write the documents that the configuration holds."""
    for number, shard in enumerate(context.config.shards):
        write_documents(context.output / shard_name(number), [Document(**fields) for fields in shard])
    return Result({"documents_out": sum(map(len, context.config.shards))})


@pytest.fixture
def prose() -> str:
    return PROSE


@pytest.fixture
def items() -> list[dict[str, str]]:
    return [dict(item) for item in ITEMS]


@pytest.fixture
def benchmark(tmp_path: Path) -> str:
    """The benchmark `quiz`: two problems and a question of five words."""
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return f"{path}:question,answer"


@pytest.fixture
def make_documents(session: Session) -> Callable[..., Artifact]:
    """Make a documents artifact of texts by id, a mapping a shard; in the test's session unless `into` is another."""

    def make(*shards: dict[str, str], into: Session = session) -> Artifact:
        values = [[{"id": name, "text": text, "source": "s"} for name, text in shard.items()] for shard in shards]
        return run_stage(into, "test.decontaminate.documents", {"shards": values}).artifact

    return make
