"""The page: one self-contained HTML file with inline style, script and data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from longcat.pipeline.printable import printable
from longcat.pipeline.store import Store
from longcat.stages.report.panels import axes, loads, sections
from longcat.stages.report.runs import ReportedRun
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
# All data is inline; the policy blocks any other request.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render_page(store: Store, runs: Sequence[ReportedRun]) -> str:
    """Render the page about these runs."""
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
    """Escape text for HTML, including bidirectional control characters."""
    return escape(printable(text))


def _shown(value: Any) -> Any:
    """Data of the script with every text made printable; the script inserts texts verbatim."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, (list, tuple)) else value


def _shared_steps(found: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Replace the steps of every curve by an index; returns the indexed lists of steps."""
    numbers: dict[tuple[int, ...], int] = {}
    for panel in (panel for section in found for panel in section["panels"]):
        for line in panel.get("lines", ()):
            line["x"] = numbers.setdefault(tuple(line["x"]), len(numbers))
    return [list(steps) for steps in numbers]


def safe_json(value: Any) -> str:
    """JSON that is safe inside a script element: `<`, `>` and `&` are escaped."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table(rows: Table, runs: Sequence[ReportedRun], *, compare: bool = False) -> str:
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


def _details(store: Store, runs: Sequence[ReportedRun]) -> str:
    found = []
    trees = [_tree(node, None, set()) for node in lineages(store, runs) if node is not None]
    if trees:
        found.append(("Made from", f'<div class="trees">{"".join(f"<ul>{tree}</ul>" for tree in trees)}</div>'))
    for title, rows in (("Configuration", configuration_table(runs)), ("Environment", environment_table(runs))):
        if rows:
            found.append((title, _table(rows, runs, compare=True)))
    return "".join(f"<details><summary>{title}</summary>{content}</details>" for title, content in found)


def _tree(node: Mapping[str, Any], role: str | None, seen: set[str]) -> str:
    """The lineage of an artifact as nested lists, the artifact on top; repeated subtrees are expanded once."""
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
