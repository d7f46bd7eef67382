"""The stage `data.dedup`: of documents that say the same, one stays."""

from __future__ import annotations

from pipeline.documents import document_shards, shard_name
from pipeline.stage import Context, Result, stage
from stages.data.dedup.config import DedupConfig


@stage("data.dedup", revision=1, inputs={"documents": "documents"}, output="documents")
def dedup_documents(context: Context[DedupConfig]) -> Result:
    """Drop exact and near duplicates; of each group the longest text stays, then the smallest id.

    Writes for every input shard one shard of the documents that stay, and `duplicates.parquet`: dropped_id, kept_id,
    kind (exact or near), similarity (Jaccard of word n-grams as the signatures estimate it).

    Raises:
        InputError: the input holds no documents.
        IntegrityError: a shard is damaged.
    """
    from pipeline.errors import InputError
    from stages.data.dedup.duplicates import cluster, load_records, write_duplicates
    from stages.data.dedup.passes import SignTask, WriteTask, save_array, sign_shard, write_shard

    documents, config, work = context.input("documents"), context.config, context.work
    shards = document_shards(documents)
    signing = [
        SignTask(shard, work / f"signatures-{number:05d}.npy", work / f"records-{number:05d}.parquet", config)
        for number, shard in enumerate(shards)
    ]
    sizes = [result["documents"] for result in context.map_shards(sign_shard, signing, description="signing")]
    if not sum(sizes):
        raise InputError("there are no documents to deduplicate", where=str(documents.path))

    records = load_records(signing, work / "signatures.npy")
    stays_for = cluster(records, config, context.progress)
    dropped = write_duplicates(context.output / "duplicates.parquet", records, stays_for)

    writing = []
    first = 0
    for number, (shard, size) in enumerate(zip(shards, sizes, strict=True)):
        kept = work / f"kept-{number:05d}.npy"
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
        metrics={"band_threshold": round((1 / config.bands) ** (1 / config.rows), 4)} if config.near else {},
    )
