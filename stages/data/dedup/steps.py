"""Steps of the stage: engine tasks, and processing of their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import shard_name
from longcat.pipeline.stage import Context
from longcat.stages.data.dedup.clusters import Clusters, Indices
from longcat.stages.data.dedup.config import DedupConfig
from longcat.stages.data.dedup.kept import KeptShard
from longcat.stages.data.dedup.match import MatchTask, match_part, read_pairs
from longcat.stages.data.dedup.paragraphs import Counted, CountTask, count_paragraphs, repeated, write_report
from longcat.stages.data.dedup.runs import EXACT, Runs, SortedRun, save_array
from longcat.stages.data.dedup.signature_pass import SignTask, sign_shard
from longcat.stages.data.dedup.signatures import draw_permutations
from longcat.stages.data.dedup.substrings.cut import CutTask, join_substrings
from longcat.stages.data.dedup.substrings.find import Removals
from longcat.stages.data.dedup.write import WriteTask, write_shard


def sign(context: Context[DedupConfig], shards: Sequence[InputShard]) -> tuple[Runs, list[int]]:
    """Runs of all shards, and documents per shard."""
    config = context.config
    permutations = draw_permutations(config.num_perm, config.seed)
    tasks = [SignTask(shard, number, context.work, config, permutations) for number, shard in enumerate(shards)]
    signed = context.map_shards(sign_shard, tasks, description="signing")
    runs = Runs(context.work, tuple(SortedRun(**run) for result in signed for run in result["runs"]))
    runs.save()
    return runs, [sum(run["documents"] for run in result["runs"]) for result in signed]


def cluster(context: Context[DedupConfig], runs: Runs) -> tuple[Indices, dict[str, Any]]:
    """Cluster root of every document, and matching metrics."""
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


def save_kept(context: Context[DedupConfig], stays_for: Indices, sizes: Sequence[int]) -> list[Path]:
    """Write for every shard which of its documents are kept; those of earlier corpora count as kept."""
    kept = []
    first = 0
    for number, size in enumerate(sizes):
        kept.append(context.work / f"kept-{number:05d}.npy")
        save_array(kept[-1], stays_for[first : first + size] == range(first, first + size))
        first += size
    return kept


def find_repeated(
    context: Context[DedupConfig], shards: Sequence[InputShard], kept: Sequence[Path], own: int
) -> Counted:
    """Paragraphs repeated in the kept documents of the first `own` shards, or in those of all shards."""
    config = context.config.paragraphs
    tasks = [
        CountTask(shard, rows, context.work / f"paragraphs-{number:05d}.npy", config.scope)
        for number, (shard, rows) in enumerate(zip(shards, kept, strict=True))
    ]
    context.map_shards(count_paragraphs, tasks, description="counting paragraphs")
    counts, memory = [task.counts for task in tasks], context.config.memory_bytes
    found = repeated(counts, config, memory)
    if own == len(shards):
        return found
    # An earlier corpus may be clean already: then its documents would only lower the share.
    both = np.concatenate([found, repeated(counts[:own], config, memory)])
    return both[np.unique(both["key"], return_index=True)[1]]


def kept_shards(
    context: Context[DedupConfig],
    shards: Sequence[InputShard],
    kept: Sequence[Path],
    paragraphs: Counted | None,
    own: int,
) -> list[KeptShard]:
    """Shards as they are written; only from the first `own` repeated paragraphs are removed."""
    keys, scope = context.work / "repeated.npy", context.config.paragraphs.scope
    if paragraphs is not None:
        save_array(keys, paragraphs["key"])
    return [
        KeptShard(shard, rows, keys if paragraphs is not None and number < own else None, scope)
        for number, (shard, rows) in enumerate(zip(shards, kept, strict=True))
    ]


def write(
    context: Context[DedupConfig], sources: Sequence[KeptShard], paragraphs: Counted | None, removals: Removals | None
) -> tuple[list[int], dict[str, int]]:
    """Write kept documents without repeated paragraphs and substrings; returns their number by shard, and what went."""
    work = context.work
    cuts = [
        CutTask(removals.files, removals.starts[number], work / f"cut-{number:05d}.parquet") if removals else None
        for number in range(len(sources))
    ]
    tasks = [
        WriteTask(source, context.output / shard_name(number), work / f"seen-{number:05d}.parquet", cut)
        for number, (source, cut) in enumerate(zip(sources, cuts, strict=True))
    ]
    results = context.map_shards(write_shard, tasks, description="writing")
    names: list[str] = []
    removed: dict[str, int] = {}
    if paragraphs is not None:
        write_report(context.output / "paragraphs.parquet", paragraphs, [task.seen for task in tasks])
        removed["paragraphs_repeated"] = len(paragraphs)
        names += ["paragraphs_removed", "characters_removed", "documents_changed", "repeated_paragraphs"]
    if removals:
        join_substrings(context.output / "substrings.parquet", [cut.seen for cut in cuts if cut])
        names += ["substrings_removed", "substring_characters_removed", "substring_documents_changed"]
        names += ["repeated_substrings"]
    removed |= {name: sum(result["removed"].get(name, 0) for result in results) for name in names}
    return [result["documents"] for result in results], removed
