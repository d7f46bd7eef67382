"""Stage `data.filter`: keeps documents that pass published quality rules, and records the reasons for others."""

from __future__ import annotations

from collections import Counter
from typing import Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.rules.config import FilterConfig


def _sources(config: FilterConfig) -> dict[str, str]:
    from longcat.pipeline.sources import fingerprint_paths

    return fingerprint_paths(config.blocklists)


@stage(
    "data.filter",
    revision=6,
    inputs={"documents": "documents+", "classifier": "report?"},
    output="documents",
    sources=_sources,
)
def filter_documents(context: Context[FilterConfig]) -> Result:
    """Drop documents that break a rule of language, Gopher, C4 or FineWeb; C4's line rules clean the rest.

    With a classifier from `data train-quality` the family `quality` is applied too. Before all rules, documents with a
    URL in a blocklist are dropped; after them, personal data is masked if `pii` is enabled.

    Writes for every input shard one shard of kept documents and `attributes-XXXXX.parquet` with one row per input
    document: id, kind, language, decision, reason and every measured value.

    Raises:
        InputError: the inputs have no documents, a blocklist is missing or has no entries, the language model is
            missing, or the classifier is of another kind.
        IntegrityError: a shard or the classifier is damaged.
    """
    from longcat.pipeline.document_inputs import document_inputs
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.filter.blocklist import read_blocklists
    from longcat.stages.data.filter.shard import FilterTask, filter_shard
    from longcat.stages.data.filter.sites import find_templates
    from longcat.stages.data.text.language import ensure_language_model
    from longcat.stages.data.text.quality_classifier import QualityClassifier, classifier_path

    if context.config.language.enabled:
        ensure_language_model()
    classifier = None
    if (given := context.optional("classifier")) is not None:
        classifier = classifier_path(given)
        QualityClassifier(classifier)
    inputs = document_inputs(context)
    blocklists, listed = read_blocklists(context)
    templates, n_templates = find_templates(context, inputs.shards) if context.config.sites.enabled else ((), 0)
    tasks = [
        FilterTask(shard, number, context.output, context.config, classifier, templates, blocklists)
        for number, shard in enumerate(inputs.shards)
    ]
    results = context.map_shards(filter_shard, tasks, description="filtering")
    by_input = inputs.counts(results, ("documents_in", "documents_out"))
    dropped, rules, totals = _summed(results)
    if not totals["documents_in"]:
        raise InputError("there are no documents to filter", where=inputs.places)
    return Result(
        counts={
            "documents_in": totals["documents_in"],
            "documents_out": totals["documents_out"],
            "dropped": dict(sorted(dropped.items())),
            **by_input,
        },
        metrics={
            "kept_fraction": round(totals["documents_out"] / totals["documents_in"], 6),
            "characters_in": totals["characters_in"],
            "characters_out": totals["characters_out"],
            "documents_edited": totals["documents_edited"],
            "lines_removed": totals["lines_removed"],
            "site_lines_found": n_templates,
            "site_lines_removed": totals["site_lines_removed"],
            "documents_by_rules": dict(sorted(rules.items())),
            **_optional_metrics(context.config, totals, listed),
            **inputs.metrics(),
        },
    )


def _summed(results: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Documents dropped by reason, documents by file of rules, and all other counts of the shards."""
    dropped: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for result in results:
        dropped.update(result.pop("dropped"))
        rules.update(result.pop("rules"))
        totals.update(result)
    return dropped, rules, totals


def _optional_metrics(config: FilterConfig, totals: Counter[str], listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of blocklists and masking, if they are used."""
    from longcat.stages.data.filter.blocklist import blocked_counts
    from longcat.stages.data.rules.config import PII_COUNTS

    found: dict[str, Any] = {"blocklists": blocked_counts(listed, totals)} if listed else {}
    if config.pii.enabled:
        found |= {f"{name}_masked": totals[f"pii.{name}"] for name in ("documents", *PII_COUNTS)}
    return found
