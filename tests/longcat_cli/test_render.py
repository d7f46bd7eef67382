"""Formatting of printed results."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from longcat.cli import console as console_module
from longcat.cli.console import PlainProgress, RichProgress
from longcat.cli.render import records_table

FIGURES_OF_SPEED = {"tokens/s": "12,345", "MFU": "41.2%", "memory": "2.10 GB"}
FIGURES = {"loss": "3.2145", **FIGURES_OF_SPEED}


def test_a_list_of_records_is_a_table_with_one_column_per_key() -> None:
    rows = [
        {"stage": "general", "source": "web", "tokens": 111_826, "share": 0.80517},
        {"stage": "general", "source": "code", "tokens": 27_059, "share": 0.19483, "quality": 0.75},
    ]
    console = Console(width=100, record=True)
    console.print(records_table("stages", rows))
    title, head, first, second = (line.split() for line in console.export_text().splitlines())
    assert (title, head) == (["stages"], ["stage", "source", "tokens", "share", "quality"])
    assert first == ["general", "web", "111,826", "0.80517"]
    assert second == ["general", "code", "27,059", "0.19483", "0.75"]


def test_a_long_list_is_cut_with_a_hint() -> None:
    console = Console(width=100, record=True)
    console.print(records_table("sources", [{"source": str(number)} for number in range(100)]))
    assert "40 more with --json" in console.export_text()


def test_a_narrow_terminal_shows_count_time_left_and_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console_module, "err", lambda: Console(file=stream, width=80, force_terminal=True))
    with RichProgress().task("extending to 32768", total=4000, unit="steps") as bar:
        bar.set(**FIGURES)
        bar.advance(500)
    shown = stream.getvalue()
    for part in ("500/4000", "left", "loss 3.2145  tokens/s 12,345  MFU 41.2%  memory 2.10 GB"):
        assert part in shown


def test_figures_wider_than_the_terminal_go_on_further_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console_module, "err", lambda: Console(file=stream, width=62, force_terminal=True))
    with RichProgress().task("training", total=4000, unit="steps") as bar:
        bar.set(loss="3.2145", validation="3.3012", lr="0.000104", epoch="12.01", **FIGURES_OF_SPEED)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line).rstrip() for line in stream.getvalue().splitlines()]
    assert "  loss 3.2145  validation 3.3012  lr 0.000104  epoch 12.01" in lines
    assert "  tokens/s 12,345  MFU 41.2%  memory 2.10 GB" in lines


def test_plain_lines_estimate_the_time_left_from_the_work_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: clock[0])
    with PlainProgress().task("training", total=1000, unit="steps") as bar:
        bar.advance(400)  # done before
        for _ in range(100):
            clock[0] += 1
            bar.set(**FIGURES)
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith(
        "  training: 500 of 1000 steps, loss 3.2145  tokens/s 12,345  MFU 41.2%  memory 2.10 GB"
    )
    assert lines[-1].endswith("1 min 40 s, 8 min 20 s left")


def test_the_bar_of_a_resumed_run_begins_where_it_was_and_its_speed_is_that_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """400 of 1,000 steps were done before; a step a second, so 540 s are left after 60."""
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(console_module, "err", lambda: Console(file=stream, width=80, force_terminal=True))
    made: list[Progress] = []
    original = Progress.__init__

    def init(self: Progress, *columns: Any, **options: Any) -> None:
        made.append(self)
        original(self, *columns, **options, get_time=lambda: clock[0])

    monkeypatch.setattr(Progress, "__init__", init)
    with RichProgress().task("training", total=1000, unit="steps") as bar:
        bar.advance(400)
        for _ in range(60):
            clock[0] += 1
            bar.advance()
        (task,) = made[0].tasks
        assert (task.completed, task.speed, task.time_remaining) == (460, 1, 540)
