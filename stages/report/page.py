"""The page: one HTML file with its style, its script and its data inside, which loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from longcat.pipeline.printable import printable
from longcat.pipeline.store import Store
from longcat.stages.report.panels import axes, loads, sections
from longcat.stages.report.runs import Run
from longcat.stages.report.summary import (
    Table,
    configuration_table,
    environment_table,
    figures,
    lineages,
    summary_table,
)

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("scales.js", "lines.js", "heat.js", "page.js")
# What the script draws on is inline; the policy makes sure that nothing else is asked for.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render_page(store: Store, runs: Sequence[Run]) -> str:
    """The whole page about these runs."""
    found = sections(runs)
    data = {"runs": [axes(run) for run in runs], "steps": _shared_steps(found), "sections": found, "loads": loads(runs)}
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    title = ", ".join(run.label for run in runs)
    data = _shown(data)
    template = (ASSETS / "page.html").read_text(encoding="utf-8")
    parts = {
        "policy": POLICY,
        "title": _text(title),
        "style": (ASSETS / "page.css").read_text(encoding="utf-8"),
        "summary": _table(summary_table([figures(run) for run in runs]), runs),
        "details": _details(store, runs),
        "data": safe_json(data),
        "script": script,
    }
    head, *rest = template.split("{{")
    pieces = [head]
    for piece in rest:
        name, _, after = piece.partition("}}")
        pieces += [parts[name], after]
    return "".join(pieces)


def _text(text: str) -> str:
    """Text as it may stand in the page: nothing in it is an element, and nothing in it turns what is read around."""
    return escape(printable(text))


def _shown(value: Any) -> Any:
    """Data of the script with every text in it made printable; the script puts them into the page as they are."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, (list, tuple)) else value


def _shared_steps(found: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Put a number in the place of the steps of every curve; returns the lists of steps that the numbers stand for."""
    numbers: dict[tuple[int, ...], int] = {}
    for panel in (panel for section in found for panel in section["panels"]):
        for line in panel.get("lines", ()):
            line["x"] = numbers.setdefault(tuple(line["x"]), len(numbers))
    return [list(steps) for steps in numbers]


def safe_json(value: Any) -> str:
    """JSON that may stand inside a script element whatever its texts are: no `<`, `>` or `&` is left in it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table(rows: Table, runs: Sequence[Run], *, compare: bool = False) -> str:
    head = ""
    if len(runs) > 1:
        cells = "".join(f'<th scope="col" class="run run-{i}">{_text(run.label)}</th>' for i, run in enumerate(runs))
        head = f"<thead><tr><td></td>{cells}</tr></thead>"
    lines = []
    for label, values in rows:
        differs = ' class="differs"' if compare and len(set(values)) > 1 else ""
        cells = "".join(f"<td>{_text(value)}</td>" for value in values)
        lines.append(f'<tr{differs}><th scope="row">{_text(label)}</th>{cells}</tr>')
    return f'<div class="table"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _details(store: Store, runs: Sequence[Run]) -> str:
    found = []
    trees = [_tree(node, None, set()) for node in lineages(store, runs) if node is not None]
    if trees:
        found.append(("Made from", f'<div class="trees">{"".join(f"<ul>{tree}</ul>" for tree in trees)}</div>'))
    for title, rows in (("Configuration", configuration_table(runs)), ("Environment", environment_table(runs))):
        if rows:
            found.append((title, _table(rows, runs, compare=True)))
    return "".join(f"<details><summary>{title}</summary>{content}</details>" for title, content in found)


def _tree(node: Mapping[str, Any], role: str | None, seen: set[str]) -> str:
    """The lineage of an artifact as nested lists, the artifact on top; what stands in it twice is unfolded once."""
    names = _text(", ".join(node.get("names", [])) or node["kind"])
    place = f"{_text(node['kind'])}/{_text(node['id'])}"
    lead = f'<span class="role">{_text(role)}</span> ' if role else ""
    head = f"{lead}<b>{names}</b> <code>{place}</code>"
    if node["id"] in seen:
        return f"<li>{head} as above</li>"
    seen.add(node["id"])
    made = "gone" if node.get("missing") else f"by {_text(node['stage'])}"
    below = "".join(_tree(child, child["role"], seen) for child in node["inputs"])
    return f"<li>{head} {made}{f'<ul>{below}</ul>' if below else ''}</li>"
