"""Documents of an artifact by length: tokens of token files, whose indexes have them, or bytes of texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import document_shards, read_documents
from longcat.pipeline.errors import UsageError
from longcat.stages.formats.curriculum import read_curriculum
from longcat.stages.formats.lengths import LengthCounts, length_rows
from longcat.stages.formats.windows import open_tokens


def lengths_report(artifact: Artifact) -> dict[str, Any]:
    """`tables`: rows of `LengthCounts.rows` by title. Texts are read one by one.

    Raises:
        UsageError: the artifact holds no documents.
        IntegrityError: a file is damaged.
    """
    if artifact.kind == "tokens":
        tables = _of_tokens(artifact)
    elif artifact.kind == "documents":
        tables = {"documents": _of_texts(artifact)}
    else:
        raise UsageError(
            f"{artifact.kind}/{artifact.id} holds no documents",
            hint="pass one of longcat artifacts list --kind documents, or --kind tokens",
        )
    return {"id": artifact.id, "kind": artifact.kind, "tables": tables}


def _of_tokens(artifact: Artifact) -> dict[str, list[dict[str, Any]]]:
    lengths = {split: np.diff(open_tokens(artifact.path, split).document_offsets) for split in ("train", "validation")}
    tables = {split: length_rows(own) for split, own in lengths.items()}
    start = 0
    for stage in read_curriculum(artifact.path, len(lengths["train"])) or ():
        tables[f"train, stage {stage.name}"] = length_rows(lengths["train"][start : start + stage.documents])
        start += stage.documents
    return tables


def _of_texts(artifact: Artifact) -> list[dict[str, Any]]:
    counts = LengthCounts()
    for shard in document_shards(artifact):
        counts.add([len(document.text.encode(errors="surrogatepass")) for document in read_documents(shard)])
    return counts.rows("bytes")
