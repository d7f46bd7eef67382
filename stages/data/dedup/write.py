"""The last pass over a shard: the documents that stay, into the artifact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longcat.pipeline.documents import Document, read_documents, write_documents
from longcat.stages.data.dedup.config import Scope
from longcat.stages.data.dedup.paragraphs import Remover, write_seen


@dataclass(frozen=True)
class RemoveTask:
    """Take out the paragraphs of `keys` (.npy); the wording of those that were met goes to `seen` (parquet)."""

    keys: Path
    seen: Path
    scope: Scope


@dataclass(frozen=True)
class WriteTask:
    """Copy those documents of `shard` to `output` whose row in `kept` (.npy of bool) is true."""

    shard: Path
    kept: Path
    output: Path
    remove: RemoveTask | None


def write_shard(task: WriteTask) -> dict[str, Any]:
    """Write the documents of one shard that stay; returns how many, and what was taken out of them."""
    kept = np.load(task.kept)

    def staying() -> Iterator[Document]:
        for row, document in enumerate(read_documents(task.shard)):
            if kept[row]:
                yield document

    if task.remove is None:
        return {"documents": write_documents(task.output, staying()), "removed": {}}
    remover = Remover(task.remove.keys, task.remove.scope)
    written = write_documents(task.output, remover.clean(staying()))
    write_seen(task.remove.seen, remover.seen)
    return {"documents": written, "removed": dict(remover.counts)}
