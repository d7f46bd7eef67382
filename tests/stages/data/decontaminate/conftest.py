"""A benchmark made in tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import longcat.stages.data.decontaminate  # noqa: F401  registers the stage

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


@pytest.fixture
def items() -> list[dict[str, str]]:
    return [dict(item) for item in ITEMS]


@pytest.fixture
def benchmark(tmp_path: Path) -> str:
    """The benchmark `quiz`: two problems and a question of five words."""
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return f"{path}:question,answer"
