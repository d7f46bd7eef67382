"""How results are printed."""

from __future__ import annotations

from rich.console import Console

from longcat_cli.render import _records


def test_a_list_of_records_is_a_table_with_a_column_a_key() -> None:
    rows = [
        {"stage": "general", "source": "web", "tokens": 111_826, "share": 0.80517},
        {"stage": "general", "source": "code", "tokens": 27_059, "share": 0.19483, "quality": 0.75},
    ]
    console = Console(width=100, record=True)
    console.print(_records("stages", rows))
    title, head, first, second = (line.split() for line in console.export_text().splitlines())
    assert (title, head) == (["stages"], ["stage", "source", "tokens", "share", "quality"])
    assert first == ["general", "web", "111,826", "0.80517"]
    assert second == ["general", "code", "27,059", "0.19483", "0.75"]


def test_a_long_list_is_cut_with_a_hint() -> None:
    console = Console(width=100, record=True)
    console.print(_records("sources", [{"source": str(number)} for number in range(100)]))
    assert "... 40 more with --json" in console.export_text()
