"""The stage `data.dedup`: of documents that say the same, one stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.documents import document_shards, shard_name
from pipeline.stage import Context, Result, stage
from stages.data.dedup.config import DedupConfig

if TYPE_CHECKING:
    from stages.data.dedup.clusters import Indices
    from stages.data.dedup.runs import Runs


@stage("data.dedup", revision=2, inputs={"documents": "documents"}, output="documents")
def dedup_documents(context: Context[DedupConfig]) -> Result:
    """Drop exact and near duplicates; of each group the best, then the longest, then the smallest id stays.

    Writes for every input shard one shard of the documents that stay, and `duplicates.parquet`: dropped_id, kept_id,
    kind (exact or near), similarity (Jaccard of word n-grams, as the signatures estimate it or exact).

    Raises:
        InputError: the input holds no documents.
        IntegrityError: a shard is damaged.
    """
    from pipeline.errors import InputError
    from stages.data.dedup.keep import keepers, write_duplicates
    from stages.data.dedup.runs import save_array
    from stages.data.dedup.write import WriteTask, write_shard

    documents, config = context.input("documents"), context.config
    shards = document_shards(documents)
    runs, sizes = _sign(context, shards)
    if not runs.documents:
        raise InputError("there are no documents to deduplicate", where=str(documents.path))

    roots, found = _cluster(context, runs)
    stays_for = keepers(runs, roots)
    dropped = write_duplicates(context.output / "duplicates.parquet", runs, stays_for, config)

    writing = []
    first = 0
    for number, (shard, size) in enumerate(zip(shards, sizes, strict=True)):
        kept = context.work / f"kept-{number:05d}.npy"
        save_array(kept, stays_for[first : first + size] == range(first, first + size))
        writing.append(WriteTask(shard, kept, context.output / shard_name(number)))
        first += size
    written = context.map_shards(write_shard, writing, description="writing")
    return Result(
        counts={
            "documents_in": first,
            "documents_out": sum(result["documents"] for result in written),
            "dropped": dropped,
        },
        metrics=found,
    )


def _sign(context: Context[DedupConfig], shards: list[Path]) -> tuple[Runs, list[int]]:
    """The runs of all shards, and how many documents each shard holds."""
    from stages.data.dedup.runs import Run, Runs
    from stages.data.dedup.sign import SignTask, sign_shard

    tasks = [SignTask(shard, number, context.work, context.config) for number, shard in enumerate(shards)]
    signed = context.map_shards(sign_shard, tasks, description="signing")
    runs = Runs(context.work, tuple(Run(**run) for result in signed for run in result["runs"]))
    runs.save()
    return runs, [sum(run["documents"] for run in result["runs"]) for result in signed]


def _cluster(context: Context[DedupConfig], runs: Runs) -> tuple[Indices, dict[str, Any]]:
    """The root of every document's cluster, and figures on how the near ones were found."""
    import numpy as np

    from stages.data.dedup.clusters import Clusters
    from stages.data.dedup.match import MatchTask, match_part, read_pairs
    from stages.data.dedup.runs import EXACT, save_array

    config, work = context.config, context.work
    clusters = Clusters(runs.documents)
    firsts = work / "firsts.npy"

    def join(sections: list[int], description: str) -> dict[str, int]:
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
    counts = join(list(range(config.bands)), "matching bands")
    return clusters.roots(), {
        "band_threshold": round((1 / config.bands) ** (1 / config.rows), 4),
        "pairs_compared": counts["compared"],
        "pairs_matched": counts["matched"],
    }
