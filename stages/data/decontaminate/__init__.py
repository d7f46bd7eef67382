"""Stage `data.decontaminate`: removes benchmark items from documents."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.decontaminate.config import DecontaminateConfig

if TYPE_CHECKING:
    from longcat.stages.data.decontaminate.canary import Canary
    from longcat.stages.data.decontaminate.index import Indexed
    from longcat.stages.data.decontaminate.items import Part

COUNTED = ("documents_in", "documents_out", "documents_cut", "characters_in", "characters_out")


def _sources(config: DecontaminateConfig) -> dict[str, str]:
    from longcat.pipeline.sources import fingerprint_paths

    return fingerprint_paths(benchmark.path for benchmark in config.parsed())


@stage("data.decontaminate", revision=2, inputs={"documents": "documents+"}, output="documents", sources=_sources)
def decontaminate_documents(context: Context[DecontaminateConfig]) -> Result:
    """Drop documents that hold benchmark items, or cut the items out, and report item by item.

    Items are found by 13-word n-grams across line breaks, short items as a whole, paraphrased ones by their content
    words. Every rule must first find an item planted for it. Writes `findings.parquet` (one row per item found in a
    document), `items.parquet` (one row per item) and `report.md`.

    Raises:
        InputError: there are no documents, or a benchmark is missing, damaged or has no usable items.
        IntegrityError: a shard is damaged.
        LongcatError: a planted item was not found.
    """
    from longcat.pipeline.document_inputs import document_inputs
    from longcat.pipeline.documents import shard_name
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.decontaminate.index import build_index, save_index
    from longcat.stages.data.decontaminate.report import gather, read_findings, write_findings, write_items, write_page
    from longcat.stages.data.decontaminate.shard import DecontaminateTask, clean_shard

    config, work, output = context.config, context.work, context.output
    inputs = document_inputs(context)
    parts = _read_benchmarks(config)
    indexed = build_index(parts, config)
    for benchmark in config.parsed():
        if not any(rules for part, rules in zip(parts, indexed.rules, strict=True) if part.benchmark == benchmark.name):
            raise InputError("no item is long enough to search for", where=str(benchmark.path), hint="lower min_words")
    index = work / "index.npz"
    save_index(index, indexed.index)
    canaries = _find_canaries(context, parts, indexed, index)

    tasks = [
        DecontaminateTask(shard, index, output / shard_name(number), work / f"findings-{number:05d}.parquet", config)
        for number, shard in enumerate(inputs.shards)
    ]
    results = context.map_shards(clean_shard, tasks, description="decontaminating")
    totals = _sum(results)
    if not totals["documents_in"]:
        raise InputError("there are no documents to decontaminate", where=inputs.places)
    counts = {name: totals[name] for name in ("documents_in", "documents_out", "dropped")}
    by_input = inputs.counts(results, ("documents_in", "documents_out"))
    findings = read_findings([task.findings for task in tasks])
    write_findings(output / "findings.parquet", parts, findings)
    reports = gather(parts, indexed, findings)
    write_items(output / "items.parquet", reports)
    write_page(output / "report.md", reports, parts, canaries, counts, config)
    return Result(
        counts=counts | by_input,
        metrics={
            "items": len(reports),
            "items_looked_for": sum(bool(report.rules) for report in reports),
            "items_found": sum(bool(report.documents) for report in reports),
            "canaries_found": len(canaries),
            "documents_cut": totals["documents_cut"],
            "characters_in": totals["characters_in"],
            "characters_out": totals["characters_out"],
            **inputs.metrics(),
        },
    )


def _read_benchmarks(config: DecontaminateConfig) -> list[Part]:
    from longcat.stages.data.decontaminate.items import read_parts

    return [part for benchmark in config.parsed() for part in read_parts(benchmark, config.id_field)]


def _find_canaries(
    context: Context[DecontaminateConfig], parts: list[Part], indexed: Indexed, index: Path
) -> list[Canary]:
    """Clean a shard of planted items like any other shard, and check that all are found."""
    from longcat.pipeline.document_inputs import InputShard
    from longcat.stages.data.decontaminate.canary import check_canaries, make_canaries, write_canaries
    from longcat.stages.data.decontaminate.shard import DecontaminateTask, clean_shard

    work, config = context.work, context.config
    canaries = make_canaries(parts, indexed, config)
    left, findings = work / "canaries-left.jsonl.zst", work / "canaries.parquet"
    shard = work / "canaries.jsonl.zst"
    planted = DecontaminateTask(InputShard(shard, "canaries"), index, left, findings, config)
    write_canaries(shard, canaries)
    context.map_shards(clean_shard, [planted], description="planted items")
    check_canaries(canaries, findings, left)
    return canaries


def _sum(results: list[dict[str, Any]]) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for result in results:
        dropped.update(result["dropped"])
        totals.update({name: value for name, value in result.items() if name != "dropped"})
    return {**{name: totals[name] for name in COUNTED}, "dropped": dict(sorted(dropped.items()))}
