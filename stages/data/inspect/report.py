"""Report on a filtered artifact, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import document_shards, read_documents
from longcat.pipeline.errors import IntegrityError, UsageError
from longcat.stages.data.inspect.attributes import Attributes
from longcat.stages.data.inspect.decisions import Reasons, RowRules, breaks, changed, decide
from longcat.stages.data.rules.config import FilterConfig, rules_on

EXCERPT_CHARACTERS = 240
KEPT = "kept"
# Bins are between these quantiles; the first and last include values beyond.
_QUANTILES = (0.01, 0.99)


def report(
    artifact: Artifact,
    sources: Sequence[Artifact],
    *,
    changes: Mapping[str, Any] | None = None,
    rules: tuple[str, ...] = (),
    examples: int = 2,
    bins: int = 10,
) -> dict[str, Any]:
    """Counts by reason, the distribution of each rule's value, and examples on both sides of its threshold.

    `sources` are the filter's inputs, for texts; without them there are none. `changes` are other thresholds, nested by
    family: the report then includes changed counts. `rules` selects rules as `family.rule`; empty: all that dropped
    documents.

    Raises:
        UsageError: a rule is unknown or disabled.
        ConfigError: a change that needs new measurements.
        IntegrityError: attributes or documents are damaged or do not match.
    """
    attributes = Attributes(artifact)
    before = FilterConfig.model_validate(artifact.manifest.config)
    config = changed(before, changes) if changes else before
    stored = attributes.texts("reason")
    reasons = decide(attributes, config) if changes else stored
    row_rules = RowRules(attributes, config)
    found: dict[str, Any] = {
        "id": artifact.id,
        "documents": len(attributes),
        "counts": _counts(reasons),
        "changes": _moves(stored, reasons) if changes else [],
        "rules": [
            _rule(attributes, row_rules, reasons, rule, bins, examples) for rule in _chosen(row_rules, reasons, rules)
        ],
    }
    if changes:
        found["counts_before"] = _counts(stored)
    if sources and examples:
        _add_texts(found["rules"], attributes, sources)
    return found


def _counts(reasons: Reasons) -> dict[str, int]:
    counts = Counter(KEPT if reason is None else str(reason) for reason in reasons)
    dropped = sorted(
        ((n, reason) for reason, n in counts.items() if reason != KEPT), key=lambda item: (-item[0], item[1])
    )
    return {KEPT: counts[KEPT], **{reason: n for n, reason in dropped}}


def _moves(before: Reasons, after: Reasons) -> list[dict[str, Any]]:
    pairs = Counter(
        (KEPT if old is None else old, KEPT if new is None else new)
        for old, new in zip(before, after, strict=True)
        if old != new
    )
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [{"from": old, "to": new, "documents": count} for (old, new), count in ordered]


def _chosen(rules: RowRules, reasons: Reasons, asked: tuple[str, ...]) -> list[str]:
    every = rules_on(*(own for _, own in rules.groups))
    for rule in asked:
        if rule not in every:
            raise UsageError(f"no enabled rule {rule!r}", hint=f"rules: {', '.join(every)}")
    dropping = set(reasons)
    return list(asked) or [rule for rule in every if rule in dropping]


def _rule(
    attributes: Attributes, rules: RowRules, reasons: Reasons, rule: str, bins: int, examples: int
) -> dict[str, Any]:
    family, _, name = rule.partition(".")
    limits = rules.limits(family, name)
    values = attributes.values(f"{family}.{name[4:]}")
    threshold = _most_frequent(limits, ~np.isnan(values))
    beyond = breaks(values, name, limits)
    first = reasons == rule
    kept = np.array([reason is None for reason in reasons]) & ~np.isnan(values)
    return {
        "rule": rule,
        "threshold": threshold,
        "measured": int(np.count_nonzero(~np.isnan(values))),
        "beyond": int(np.count_nonzero(beyond)),
        "first_reason": int(np.count_nonzero(first)),
        "histogram": _histogram(values[~np.isnan(values)], threshold, bins),
        "dropped_examples": _nearest(attributes, values, first, limits, examples),
        "kept_examples": _nearest(attributes, values, kept & ~np.isnan(limits), limits, examples),
    }


def _most_frequent(limits: npt.NDArray[np.float64], measured: npt.NDArray[np.bool_]) -> float:
    """Threshold of most of the measured documents; the smallest on ties."""
    stated = ~np.isnan(limits)
    chosen = limits[stated & measured] if (stated & measured).any() else limits[stated]
    found, counts = np.unique(chosen, return_counts=True)
    return float(found[counts.argmax()])


def _histogram(values: npt.NDArray[np.float64], threshold: float, bins: int) -> list[dict[str, float]]:
    """Bins of equal width with the threshold among their edges; `from`, `to` and number of documents of each."""
    if not len(values):
        return []
    low, high = np.quantile(values, _QUANTILES)
    low, high = min(float(low), threshold), max(float(high), threshold)
    if low == high:
        return [{"from": low, "to": high, "documents": len(values)}]
    below = round(bins * (threshold - low) / (high - low))
    below = min(max(below, int(threshold > low)), bins - int(threshold < high))
    edges = np.concatenate(
        (np.linspace(low, threshold, below + 1)[:-1], np.linspace(threshold, high, bins - below + 1))
    )
    counts, _ = np.histogram(np.clip(values, low, high), edges)
    pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return [{"from": start, "to": end, "documents": count} for start, end, count in pairs]


def _nearest(
    attributes: Attributes,
    values: npt.NDArray[np.float64],
    where: npt.NDArray[np.bool_],
    limits: npt.NDArray[np.float64],
    count: int,
) -> list[dict[str, Any]]:
    """Rows nearest to their threshold."""
    rows = np.flatnonzero(where)
    rows = rows[np.argsort(np.abs(values[rows] - limits[rows]), kind="stable")][:count]
    found = []
    for row in rows.tolist():
        shard, line = attributes.place(row)
        found.append({"value": float(values[row]), "shard": shard, "line": line})
    return found


def _add_texts(rules: list[dict[str, Any]], attributes: Attributes, sources: Sequence[Artifact]) -> None:
    """Add id and start of the text to every example; only shards with examples are read."""
    shards = [shard for source in sources for shard in document_shards(source)]
    if len(shards) != len(attributes.paths):
        raise IntegrityError("the number of shards differs between input and attributes", where=str(sources[0].path))
    wanted: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for rule in rules:
        for example in (*rule["dropped_examples"], *rule["kept_examples"]):
            wanted.setdefault(example["shard"], {}).setdefault(example["line"], []).append(example)
    for shard, lines in sorted(wanted.items()):
        _read_texts(shards[shard], attributes.identifiers(shard), lines)


def _read_texts(path: Path, identifiers: Sequence[str], lines: dict[int, list[dict[str, Any]]]) -> None:
    last = max(lines)
    for number, document in enumerate(read_documents(path)):
        for example in lines.get(number, ()):
            example.update(id=identifiers[number], url=document.url, text=document.text[:EXCERPT_CHARACTERS])
        if number == last:
            return
    raise IntegrityError("the shard has fewer documents than the attributes", where=str(path))
