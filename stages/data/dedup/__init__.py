"""The stage `data.dedup`: of documents that say the same, one stays."""

from __future__ import annotations

from longcat.pipeline.documents import document_shards
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.dedup.config import DedupConfig


@stage("data.dedup", revision=2, inputs={"documents": "documents"}, output="documents")
def dedup_documents(context: Context[DedupConfig]) -> Result:
    """Drop exact and near duplicates; of each group the best, then the longest, then the smallest id stays.

    Writes for every input shard one shard of the documents that stay, and `duplicates.parquet`: dropped_id, kept_id,
    kind (exact or near), similarity (Jaccard of word n-grams, as the signatures estimate it or exact). Where repeated
    paragraphs are taken out, `paragraphs.parquet` too: group, documents, text.

    Raises:
        InputError: the input holds no documents.
        IntegrityError: a shard is damaged.
    """
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.dedup.keep import keepers, write_duplicates
    from longcat.stages.data.dedup.runs import save_array
    from longcat.stages.data.dedup.steps import cluster, find_repeated, sign, write

    documents, config = context.input("documents"), context.config
    shards = document_shards(documents)
    runs, sizes = sign(context, shards)
    if not runs.documents:
        raise InputError("there are no documents to deduplicate", where=str(documents.path))

    roots, metrics = cluster(context, runs)
    stays_for = keepers(runs, roots)
    dropped = write_duplicates(context.output / "duplicates.parquet", runs, stays_for, config)
    kept = []
    first = 0
    for number, size in enumerate(sizes):
        kept.append(context.work / f"kept-{number:05d}.npy")
        save_array(kept[-1], stays_for[first : first + size] == range(first, first + size))
        first += size

    repeated = find_repeated(context, shards, kept) if config.paragraphs.enabled else None
    written, removed = write(context, shards, kept, repeated)
    if emptied := removed.pop("repeated_paragraphs", 0):
        dropped["repeated_paragraphs"] = emptied
    return Result(
        counts={"documents_in": first, "documents_out": written, "dropped": dropped}, metrics=metrics | removed
    )
