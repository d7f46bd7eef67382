"""Scoring of one shard: words of sampled documents, then quality and cluster of every document."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from longcat.pipeline.documents import Document, document_batches, read_documents
from longcat.pipeline.files import atomic_path
from longcat.stages.data.score.cluster import nearest
from longcat.stages.data.score.config import ScoreConfig
from longcat.stages.data.score.embed import SCALE, bag_of_words, embed
from longcat.stages.data.score.quality import rule_quality
from longcat.stages.data.text.quality_classifier import QualityClassifier

BATCH_DOCUMENTS = 1024
NO_GROUP = -1


@dataclass(frozen=True)
class SampleTask:
    """Task: write the words of documents of `shard` with a hash below `limit` (of 2^64) to `words`."""

    shard: Path
    words: Path
    limit: int
    config: ScoreConfig


@dataclass(frozen=True)
class ScoreTask:
    """Score the documents of `shard` into the Parquet file `scored`, given word rarity and centres."""

    shard: Path
    scored: Path
    rarities: Path
    centres: Path
    classifier: Path | None
    config: ScoreConfig


def sample_hash(identifier: str, seed: int) -> int:
    """64-bit hash of a document's id, which decides about the sample."""
    key = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(identifier.encode(), digest_size=8, key=key, person=b"longcat-score")
    return int.from_bytes(digest.digest(), "little")


def sample_shard(task: SampleTask) -> dict[str, Any]:
    """Write the words of the sampled documents of one shard; see `SampleTask`.

    The file holds, for every word of every document in order, its bucket and its weight, float64 [n, 2], with a row of
    -1 before each document.

    Raises:
        IntegrityError: the shard is damaged.
    """
    parts = [np.zeros((0, 2))]
    for document in read_documents(task.shard):
        if sample_hash(document.id, task.config.seed) < task.limit:
            bag = bag_of_words(document.text[: task.config.characters])
            if len(bag.buckets):
                parts += [np.full((1, 2), -1.0), np.stack((bag.buckets.astype(np.float64), bag.weights), axis=1)]
    with atomic_path(task.words) as aside, aside.open("wb") as stream:
        np.save(stream, np.concatenate(parts))
    return {"documents": len(parts) // 2}


def score_shard(task: ScoreTask) -> dict[str, Any]:
    """Write one row per document, in order: id, quality, cluster, distance to its centre; see `ScoreTask`.

    A document without words has cluster -1.

    Raises:
        IntegrityError: the shard is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"id": pa.string(), "quality": pa.float64(), "cluster": pa.int32(), "distance": pa.float64()}
    schema = pa.schema(list(types.items()))
    count = 0
    with atomic_path(task.scored) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for batch in document_batches(task.shard, BATCH_DOCUMENTS):
            writer.write_table(pa.table(_scored(batch, task), schema=schema))
            count += len(batch)
    return {"documents": count}


def _scored(documents: list[Document], task: ScoreTask) -> dict[str, Any]:
    config = task.config
    bags = [bag_of_words(document.text[: config.characters]) for document in documents]
    groups, squares = nearest(embed(bags, np.load(task.rarities), config.dimensions), np.load(task.centres))
    worded = np.array([len(bag.buckets) > 0 for bag in bags])
    return {
        "id": [document.id for document in documents],
        "quality": [round(_quality(document, task), 6) for document in documents],
        "cluster": np.where(worded, groups, NO_GROUP),
        "distance": np.where(worded, np.sqrt(squares) / SCALE, 0.0),
    }


def _quality(document: Document, task: ScoreTask) -> float:
    if task.classifier is None:
        return rule_quality(document, task.config.characters)
    return _classifier(task.classifier).score(document.text, task.config.characters)


@cache
def _classifier(path: Path) -> QualityClassifier:
    return QualityClassifier(path)
