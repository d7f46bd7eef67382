"""Printing of the `longcat data inspect` report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longcat.cli.console import out
from longcat.cli.tables import table
from longcat.cli.terminal import line, styled
from longcat.pipeline.printable import printable
from longcat.pipeline.values import number, written

BAR = 40


def print_report(found: Mapping[str, Any]) -> None:
    """Print counts, the effect of other thresholds, then every rule with its histogram and examples."""
    documents = styled(f"{found['documents']:,} documents", "bold")
    out().print(line(documents, f" entered the filter of documents/{found['id']}"))
    _print_counts(found["counts"], found.get("counts_before"))
    if "counts_before" in found:
        _print_changes(found["changes"])
    for rule in found["rules"]:
        _print_rule(rule)


def _print_counts(counts: Mapping[str, int], before: Mapping[str, int] | None) -> None:
    total = max(1, sum(counts.values()))
    if before is None:
        rows = table("outcome", ">documents", ">share")
        for reason, count in counts.items():
            rows.add_row(reason, f"{count:,}", f"{count / total:.1%}")
    else:
        rows = table("outcome", ">before", ">after", ">change")
        for reason in dict.fromkeys([*counts, *before]):
            old, new = before.get(reason, 0), counts.get(reason, 0)
            rows.add_row(reason, f"{old:,}", f"{new:,}", f"{new - old:+,}" if new != old else "")
    out().print(rows)


def _print_changes(changes: Sequence[Mapping[str, Any]]) -> None:
    if not changes:
        out().print("no decision changes")
        return
    rows = table("before", "after", ">documents")
    for change in changes:
        rows.add_row(change["from"], change["to"], f"{change['documents']:,}")
    out().print(rows)


def _print_rule(rule: Mapping[str, Any]) -> None:
    sign = "<" if rule["rule"].partition(".")[2].startswith("min_") else ">"
    beyond = f"{rule['beyond']:,} of {rule['measured']:,} are {sign} {written(rule['threshold'])}"
    first = f"{rule['first_reason']:,} dropped by this rule first"
    out().print()
    out().print(line(styled(rule["rule"], "bold"), f" = {written(rule['threshold'])}   {beyond}, {first}"))
    most = max((row["documents"] for row in rule["histogram"]), default=0) or 1
    for row in rule["histogram"]:
        outside = row["to"] <= rule["threshold"] if sign == "<" else row["from"] >= rule["threshold"]
        length = -(-BAR * row["documents"] // most)
        bar = styled("█" * length, "red" if outside else "green")
        side = styled(" dropped", "red") if outside else ""
        out().print(
            line(f"  {number(row['from'], 4):>10} … {number(row['to'], 4):<10} {row['documents']:>8,} ", bar, side)
        )
    for title, style in (("dropped_examples", "red"), ("kept_examples", "green")):
        for example in rule[title]:
            _print_example(example, title.partition("_")[0], style)


def _print_example(example: Mapping[str, Any], title: str, style: str) -> None:
    text = " ".join(printable(example.get("text", "")).split())
    where = f" at {number(example['value'], 4)}: {example.get('id', '')} "
    out().print(line("  ", styled(title, style), where, styled(text, "dim")))
