"""Stage `data.dedup`: removes exact and near duplicates."""

from __future__ import annotations

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.dedup.config import DedupConfig


@stage("data.dedup", revision=3, inputs={"documents": "documents+", "against": "documents*"}, output="documents")
def dedup_documents(context: Context[DedupConfig]) -> Result:
    """Drop exact and near duplicates; of each group keep the best, then the longest, then the smallest id.

    With earlier corpora as `against`, all documents of a group with one of theirs are dropped; theirs are not written.

    Writes for every input shard one shard of kept documents, and `duplicates.parquet`: dropped_id, kept_id,
    kind (exact or near), similarity (Jaccard of word n-grams, estimated or exact), and with `against` the artifact of
    kept_id. If repeated paragraphs are removed, also `paragraphs.parquet`: group, documents, text; if repeated
    substrings are, `substrings.parquet`: document, start, characters, text.

    Raises:
        InputError: the inputs have no documents.
        IntegrityError: a shard is damaged.
    """
    from longcat.pipeline.document_inputs import document_inputs, plain_inputs
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.dedup.keep import Earlier, keepers, write_duplicates
    from longcat.stages.data.dedup.steps import cluster, find_repeated, kept_shards, save_kept, sign, write
    from longcat.stages.data.dedup.substrings.find import find_substrings

    inputs, against, config = document_inputs(context), plain_inputs(context.many("against")), context.config
    shards, own = (*inputs.shards, *against.shards), len(inputs.shards)
    runs, sizes = sign(context, shards)
    total = sum(sizes[:own])
    if not total:
        raise InputError("there are no documents to deduplicate", where=inputs.places)

    roots, metrics = cluster(context, runs)
    earlier = Earlier(total, tuple((shard.artifact, size) for shard, size in zip(shards, sizes, strict=True))[own:])
    stays_for = keepers(runs, roots, earlier)
    dropped = write_duplicates(context.output / "duplicates.parquet", runs, stays_for, earlier, config)
    kept = save_kept(context, stays_for, sizes)

    repeated = find_repeated(context, shards, kept, own) if config.paragraphs.enabled else None
    sources = kept_shards(context, shards, kept, repeated, own)
    removals = find_substrings(context, sources, own) if config.substrings.enabled else None
    sizes_out, removed = write(context, sources[:own], repeated, removals)
    by_shard = [{"documents_in": size, "documents_out": out} for size, out in zip(sizes[:own], sizes_out, strict=True)]
    for reason in ("repeated_paragraphs", "repeated_substrings"):
        if emptied := removed.pop(reason, 0):
            dropped[reason] = emptied
    if against.artifacts:
        metrics["documents_against"] = runs.documents - total
    return Result(
        counts={
            "documents_in": total,
            "documents_out": sum(sizes_out),
            "dropped": dropped,
            **inputs.counts(by_shard, ("documents_in", "documents_out")),
        },
        metrics=metrics | removed | inputs.metrics(),
    )
