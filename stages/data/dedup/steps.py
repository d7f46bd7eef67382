"""The steps of the stage: what each hands to the engine, and what it makes of the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longcat.pipeline.documents import shard_name
from longcat.pipeline.stage import Context
from longcat.stages.data.dedup.clusters import Clusters, Indices
from longcat.stages.data.dedup.config import DedupConfig
from longcat.stages.data.dedup.match import MatchTask, match_part, read_pairs
from longcat.stages.data.dedup.paragraphs import Counted, CountTask, count_paragraphs, repeated, write_report
from longcat.stages.data.dedup.runs import EXACT, Run, Runs, save_array
from longcat.stages.data.dedup.sign import SignTask, sign_shard
from longcat.stages.data.dedup.signatures import draw_permutations
from longcat.stages.data.dedup.write import RemoveTask, WriteTask, write_shard


def sign(context: Context[DedupConfig], shards: Sequence[Path]) -> tuple[Runs, list[int]]:
    """The runs of all shards, and how many documents each shard holds."""
    config = context.config
    permutations = draw_permutations(config.num_perm, config.seed)
    tasks = [SignTask(shard, number, context.work, config, permutations) for number, shard in enumerate(shards)]
    signed = context.map_shards(sign_shard, tasks, description="signing")
    runs = Runs(context.work, tuple(Run(**run) for result in signed for run in result["runs"]))
    runs.save()
    return runs, [sum(run["documents"] for run in result["runs"]) for result in signed]


def cluster(context: Context[DedupConfig], runs: Runs) -> tuple[Indices, dict[str, Any]]:
    """The root of every document's cluster, and figures on how the near ones were found."""
    config, work = context.config, context.work
    clusters = Clusters(runs.documents)
    firsts = work / "firsts.npy"

    def join(sections: Sequence[int], description: str) -> dict[str, int]:
        tasks = [
            MatchTask(work, section, part, parts, work / f"pairs-{section + 1:03d}-{part:05d}.bin", firsts, config)
            for section in sections
            for parts in [runs.parts(section, config.memory_bytes)]
            for part in range(parts)
        ]
        results = context.map_shards(match_part, tasks, description=description)
        for task in tasks:
            for pairs in read_pairs(task.pairs):
                clusters.join(pairs)
        return {name: sum(result[name] for result in results) for name in ("compared", "matched")}

    join([EXACT], "matching texts")
    if not config.near:
        return clusters.roots(), {}
    save_array(firsts, clusters.roots() == np.arange(runs.documents))
    counts = join(range(config.bands), "matching bands")
    return clusters.roots(), {
        "band_threshold": round((1 / config.bands) ** (1 / config.rows), 4),
        "pairs_compared": counts["compared"],
        "pairs_matched": counts["matched"],
    }


def find_repeated(context: Context[DedupConfig], shards: Sequence[Path], kept: Sequence[Path]) -> Counted:
    """The paragraphs that the documents that stay repeat."""
    config = context.config.paragraphs
    tasks = [
        CountTask(shard, rows, context.work / f"paragraphs-{number:05d}.npy", config.scope)
        for number, (shard, rows) in enumerate(zip(shards, kept, strict=True))
    ]
    context.map_shards(count_paragraphs, tasks, description="counting paragraphs")
    return repeated([task.counts for task in tasks], config, context.config.memory_bytes)


def write(
    context: Context[DedupConfig], shards: Sequence[Path], kept: Sequence[Path], paragraphs: Counted | None
) -> tuple[int, dict[str, int]]:
    """Write the documents that stay without the repeated paragraphs; returns how many, and what was removed."""
    keys, scope = context.work / "repeated.npy", context.config.paragraphs.scope
    if paragraphs is not None:
        save_array(keys, paragraphs["key"])
    removing = [
        RemoveTask(keys, context.work / f"seen-{number:05d}.parquet", scope) if paragraphs is not None else None
        for number in range(len(shards))
    ]
    tasks = [
        WriteTask(shard, rows, context.output / shard_name(number), remove)
        for number, (shard, rows, remove) in enumerate(zip(shards, kept, removing, strict=True))
    ]
    results = context.map_shards(write_shard, tasks, description="writing")
    documents = sum(result["documents"] for result in results)
    if paragraphs is None:
        return documents, {}
    write_report(context.output / "paragraphs.parquet", paragraphs, [task.seen for task in removing if task])
    names = ("paragraphs_removed", "characters_removed", "documents_changed", "repeated_paragraphs")
    removed = {name: sum(result["removed"].get(name, 0) for result in results) for name in names}
    return documents, {"paragraphs_repeated": len(paragraphs), **removed}
