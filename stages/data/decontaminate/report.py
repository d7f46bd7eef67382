"""Findings per benchmark item: Parquet table and Markdown report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longcat.pipeline.files import atomic_path, atomic_write
from longcat.stages.data.decontaminate.canary import Canary, rules_of
from longcat.stages.data.decontaminate.config import DecontaminateConfig
from longcat.stages.data.decontaminate.index import Indexed
from longcat.stages.data.decontaminate.items import Part
from longcat.stages.data.decontaminate.match import RULES

ITEMS_SHOWN = 50
UNUSED_SHOWN = 200
EXAMPLE_CHARACTERS = 120


@dataclass
class ItemReport:
    """One item: words of its fields, rules that search for it, and where it was found."""

    benchmark: str
    item: str
    words: int = 0
    rules: set[str] = field(default_factory=set)
    fields_not_looked_for: list[str] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)
    places: int = 0
    example: str = ""

    def row(self) -> dict[str, Any]:
        """Row of `items.parquet`."""
        by_rule = {f"{rule}_documents": list(self.documents.values()).count(rule) for rule in RULES}
        return {
            "benchmark": self.benchmark,
            "item": self.item,
            "words": self.words,
            "rules": [rule for rule in RULES if rule in self.rules],
            "fields_not_looked_for": self.fields_not_looked_for,
            "places": self.places,
            "documents": len(self.documents),
            **by_rule,
            "example_document": next(iter(self.documents), None),
            "example": self.example or None,
        }


def read_findings(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of all shards, in order."""
    import pyarrow.parquet as pq

    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def write_findings(path: Path, parts: Sequence[Part], findings: Sequence[dict[str, Any]]) -> None:
    """One row for every field of an item found in a document."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = [
        {
            "document": row["document"],
            "benchmark": parts[row["part"]].benchmark,
            "item": parts[row["part"]].item,
            "field": parts[row["part"]].field,
            **{name: value for name, value in row.items() if name not in ("document", "part")},
        }
        for row in findings
    ]
    texts = ("document", "benchmark", "item", "field", "rule")
    numbers = ("places", "ngrams")
    rest = [("share", pa.float64()), ("first_word", pa.int64()), ("last_word", pa.int64()), ("kept", pa.bool_())]
    columns = [(name, pa.string()) for name in texts] + [(name, pa.int64()) for name in numbers]
    schema = pa.schema([*columns, *rest, ("excerpt", pa.string())])
    with atomic_path(path) as aside:
        pq.write_table(pa.Table.from_pylist(named, schema=schema), aside, compression="zstd")


def gather(parts: Sequence[Part], indexed: Indexed, findings: Sequence[dict[str, Any]]) -> list[ItemReport]:
    """Reports of all items, in file order."""
    reports: dict[tuple[str, str], ItemReport] = {}
    for part, rules, words in zip(parts, indexed.rules, indexed.words, strict=True):
        report = reports.setdefault((part.benchmark, part.item), ItemReport(part.benchmark, part.item))
        report.words += words
        report.rules.update(rules)
        if not rules:
            report.fields_not_looked_for.append(part.field)
    for row in findings:
        part = parts[row["part"]]
        report = reports[part.benchmark, part.item]
        report.places += row["places"]
        report.example = report.example or row["excerpt"]
        known = report.documents.setdefault(row["document"], row["rule"])
        report.documents[row["document"]] = min(known, row["rule"], key=RULES.index)
    return list(reports.values())


def write_items(path: Path, reports: Sequence[ItemReport]) -> None:
    """One row per item."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.list_(pa.string())
    types: dict[str, pa.DataType] = {
        "benchmark": pa.string(),
        "item": pa.string(),
        "words": pa.int64(),
        "rules": texts,
        "fields_not_looked_for": texts,
        "places": pa.int64(),
        "documents": pa.int64(),
        **{f"{rule}_documents": pa.int64() for rule in RULES},
        "example_document": pa.string(),
        "example": pa.string(),
    }
    table = pa.Table.from_pylist([report.row() for report in reports], schema=pa.schema(list(types.items())))
    with atomic_path(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def write_page(
    path: Path,
    reports: Sequence[ItemReport],
    parts: Sequence[Part],
    canaries: Sequence[Canary],
    counts: dict[str, Any],
    config: DecontaminateConfig,
) -> None:
    """`report.md`: totals, then every benchmark with items found and items not searched."""
    done = "dropped" if config.action == "drop" else "dropped, in addition to those cut"
    lines = [
        "# Benchmark items in the documents",
        "",
        f"{counts['documents_in']} documents read, {counts['documents_out']} kept, "
        f"{sum(counts['dropped'].values())} {done}.",
        "",
        "| benchmark | items | looked for | found | documents | canaries found |",
        "|---|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(report.benchmark for report in reports))
    for name in names:
        own = [report for report in reports if report.benchmark == name]
        documents = {document for report in own for document in report.documents}
        proved = ", ".join(rules_of(canaries, parts, name)) or "none"
        counted = [len(own), sum(bool(r.rules) for r in own), sum(bool(r.documents) for r in own), len(documents)]
        lines.append(f"| {_plain(name)} | {' | '.join(map(str, counted))} | {proved} |")
    for name in names:
        lines += _benchmark_lines(name, [report for report in reports if report.benchmark == name])
    atomic_write(path, ("\n".join(lines) + "\n").encode("utf-8", "replace"))


def _benchmark_lines(name: str, reports: Sequence[ItemReport]) -> list[str]:
    found = sorted((r for r in reports if r.documents), key=lambda r: (-len(r.documents), r.item))
    unused = [report.item for report in reports if not report.rules]
    lines = ["", f"## {_plain(name)}", ""]
    if found:
        lines += ["| item | documents | places | rules | example | text found |", "|---|---|---|---|---|---|"]
        for report in found[:ITEMS_SHOWN]:
            rules = ", ".join(rule for rule in RULES if rule in report.documents.values())
            example = f"{_plain(next(iter(report.documents)))} | {_plain(report.example)}"
            lines.append(f"| {_plain(report.item)} | {len(report.documents)} | {report.places} | {rules} | {example} |")
        if len(found) > ITEMS_SHOWN:
            lines += ["", f"{len(found) - ITEMS_SHOWN} more are in items.parquet."]
    else:
        lines.append("No item was found; the canaries were.")
    if unused:
        shown = ", ".join(map(_plain, unused[:UNUSED_SHOWN]))
        more = f" and {len(unused) - UNUSED_SHOWN} more" if len(unused) > UNUSED_SHOWN else ""
        lines += ["", f"Not looked for, too short: {shown}{more}."]
    return lines


def _plain(text: str) -> str:
    """Escape text for a Markdown table cell."""
    line = " ".join(text.split())
    line = line if len(line) <= EXAMPLE_CHARACTERS else line[: EXAMPLE_CHARACTERS - 1] + "…"
    return "".join(f"\\{sign}" if sign in "\\|`*_<>[]#" else sign for sign in line)
