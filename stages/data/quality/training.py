"""Training of the quality classifier: documents are split into two files, for fastText and for measurement."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.errors import InputError
from longcat.pipeline.files import atomic_path, atomic_write, canonical_json
from longcat.pipeline.stage import Context, Result
from longcat.stages.data.quality.measures import measure
from longcat.stages.data.text.quality_classifier import MODEL_NAME, NEGATIVE, POSITIVE, QualityClassifier, normalize

if TYPE_CHECKING:
    from longcat.stages.data.quality.config import QualityTrainingConfig

# Small sets need many epochs before word vectors change noticeably.
MIN_EPOCHS, MAX_EPOCHS, DOCUMENTS_SEEN = 5, 100, 100_000
REPORT_NAME = "held-out.json"
# Label of each role's documents; labelled ones have it in their metadata.
ROLES = {"positives": POSITIVE, "negatives": NEGATIVE, "labelled": None}


def train(context: Context[QualityTrainingConfig]) -> Result:
    """Split, train, measure; see `stages.data.quality.train_quality`."""
    context.work.mkdir(parents=True, exist_ok=True)
    training, held_out = context.work / "training.txt", context.work / "held-out.txt"
    counts = _split(context, training, held_out)
    _check_classes(counts)
    model = context.output / MODEL_NAME
    epochs = context.config.epochs or min(MAX_EPOCHS, max(MIN_EPOCHS, DOCUMENTS_SEEN // counts["training"]))
    _train(training, model, context.config, epochs)
    found = measure(*_scores(QualityClassifier(model), held_out))
    atomic_write(context.output / REPORT_NAME, canonical_json(found) + b"\n")
    dropped = {name: counts[name] for name in ("duplicate", "empty", "unlabelled") if counts[name]}
    metrics = {"epochs": epochs, "roc_auc": found["roc_auc"], "held_out_at": found["thresholds"]}
    totals = {name: counts[name] for name in ("documents_in", "training", "held_out")}
    inputs = [
        {"id": artifact.id, "role": role, "documents": counts[f"{role} {artifact.id}"]}
        for role in ROLES
        for artifact in context.many(role)
    ]
    return Result(counts={**totals, "dropped": dropped, "inputs": inputs}, metrics=metrics)


def _check_classes(counts: Counter[str]) -> None:
    for part in ("training", "held_out"):
        for label in (POSITIVE, NEGATIVE):
            if not counts[part + label]:
                name = label.removeprefix("__label__")
                raise InputError(
                    f"no {name} documents in the {part.replace('_', '-')} part, of {counts['documents_in']} in total",
                    hint="use more documents, or another --held-out fraction",
                )


def _labelled(context: Context[QualityTrainingConfig]) -> Iterator[tuple[str | None, Document, str]]:
    """Every document with its label, None if it has no known label, and its role and artifact."""
    config = context.config
    names = {config.positive: POSITIVE, config.negative: NEGATIVE}
    for role, label in ROLES.items():
        for artifact in context.many(role):
            for shard in document_shards(artifact):
                for document in read_documents(shard):
                    yield (
                        label or names.get(str(document.metadata.get(config.label_key))),
                        document,
                        f"{role} {artifact.id}",
                    )


def _split(context: Context[QualityTrainingConfig], training: Path, held_out: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()
    with ExitStack() as files:
        parts: dict[str, TextIO] = {
            name: files.enter_context(path.open("w", encoding="utf-8", errors="replace"))
            for name, path in (("training", training), ("held_out", held_out))
        }
        for label, document, source in _labelled(context):
            counts["documents_in"] += 1
            counts[source] += 1
            line = normalize(document.text, context.config.max_characters)
            digest = hashlib.blake2b(f"{context.seed} {line}".encode("utf-8", "replace"), digest_size=8).digest()
            reason = "unlabelled" if label is None else "empty" if not line else "duplicate" if digest in seen else None
            if reason is not None:
                counts[reason] += 1
                continue
            seen.add(digest)
            part = "held_out" if int.from_bytes(digest) < context.config.held_out * 2**64 else "training"
            counts[part] += 1
            counts[f"{part}{label}"] += 1
            parts[part].write(f"{label} {line}\n")
    return counts


def _train(training: Path, model: Path, config: QualityTrainingConfig, epochs: int) -> None:
    import fasttext

    trained = fasttext.train_supervised(
        input=str(training),
        dim=config.dimensions,
        wordNgrams=config.word_ngrams,
        bucket=config.buckets,
        minCount=config.min_count,
        epoch=epochs,
        lr=config.learning_rate,
        seed=config.seed,
        thread=1,
        verbose=0,
    )
    with atomic_path(model) as aside:
        trained.save_model(str(aside))


def _scores(
    classifier: QualityClassifier, held_out: Path
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    scores, good = [], []
    with held_out.open(encoding="utf-8") as lines:
        for row in lines:
            label, _, text = row.rstrip("\n").partition(" ")
            good.append(label == POSITIVE)
            scores.append(classifier.score(text, len(text)))
    return np.array(scores, dtype=np.float64), np.array(good, dtype=np.bool_)
