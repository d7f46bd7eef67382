"""The last pass over a shard: the documents that stay, into the artifact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.documents import Document, read_documents, write_documents


@dataclass(frozen=True)
class WriteTask:
    """Copy those documents of `shard` to `output` whose row in `kept` (.npy of bool) is true."""

    shard: Path
    kept: Path
    output: Path


def write_shard(task: WriteTask) -> dict[str, Any]:
    """Write the documents of one shard that stay."""
    kept = np.load(task.kept)

    def staying() -> Iterator[Document]:
        for row, document in enumerate(read_documents(task.shard)):
            if kept[row]:
                yield document

    return {"documents": write_documents(task.output, staying())}
