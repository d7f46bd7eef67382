"""Last pass over a shard: writes kept documents to the artifact."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.pipeline.documents import write_documents
from longcat.stages.data.dedup.kept import KeptShard
from longcat.stages.data.dedup.paragraphs import write_seen
from longcat.stages.data.dedup.substrings.cut import CutTask, Cutter, write_substrings


@dataclass(frozen=True)
class WriteTask:
    """Task: copy the documents of `source` to `output`.

    The texts of removed paragraphs are written to `seen` (parquet), if any are removed; `cut` removes substrings.
    """

    source: KeptShard
    output: Path
    seen: Path
    cut: CutTask | None


def write_shard(task: WriteTask) -> dict[str, Any]:
    """Write the kept documents of one shard; returns their number, and removal counts."""
    remover = task.source.remover()
    documents = task.source.documents(remover)
    removed: Counter[str] = Counter()
    cutter = Cutter(task.cut) if task.cut else None
    written = write_documents(task.output, cutter.clean(documents) if cutter else documents)
    if remover:
        write_seen(task.seen, remover.seen)
        removed.update(remover.counts)
    if task.cut and cutter:
        write_substrings(task.cut.seen, cutter.seen)
        removed.update(cutter.counts)
    return {"documents": written, "removed": dict(removed)}
