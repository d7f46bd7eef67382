"""Steps of the stage: documents to partitions by repository, and partitions or paths to repository documents."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document, read_documents, write_documents
from longcat.stages.data.repositories.assemble import repository_documents
from longcat.stages.data.repositories.config import RepositoriesConfig
from longcat.stages.data.repositories.read import Read, read_module, read_repository, repository_name


@dataclass(frozen=True)
class PartitionTask:
    """One shard of documents, to one file for each partition."""

    shard: InputShard
    targets: tuple[Path, ...]
    config: RepositoriesConfig


def partition_shard(task: PartitionTask) -> dict[str, Any]:
    """Write the documents of a shard to the partitions of their repositories."""
    config = task.config
    parts: list[list[Document]] = [[] for _ in task.targets]
    dropped: Counter[str] = Counter()
    count = 0
    for document in task.shard.documents():
        count += 1
        name, path = (document.metadata.get(key) for key in (config.repository_key, config.path_key))
        if not isinstance(name, str) or not name or not isinstance(path, str) or not path:
            dropped["no_repository"] += 1
            continue
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        parts[int.from_bytes(digest, "little") % len(parts)].append(document)
    for target, documents in zip(task.targets, parts, strict=True):
        write_documents(target, documents)
    return {"files": count, "dropped": dict(dropped)}


@dataclass(frozen=True)
class AssembleTask:
    """One shard of the output, from the files of a partition, from folders and archives, or from packages."""

    target: Path
    config: RepositoriesConfig
    parts: tuple[Path, ...] = ()
    paths: tuple[Path, ...] = ()
    modules: tuple[str, ...] = ()


def assemble_shard(task: AssembleTask) -> dict[str, Any]:
    """Write one shard of repository documents, in the order of the names of partitions, as given of paths and packages.

    Raises:
        InputError: an archive is damaged.
    """
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()

    def documents() -> Iterator[Document]:
        for name, read in _repositories(task):
            counts.update(repositories=bool(read.texts), files=read.files, kept=len(read.texts))
            dropped.update(read.dropped)
            made = list(repository_documents(name, read.texts, task.config.max_characters))
            counts.update(circles=made[0].metadata["circular_imports"] if made else 0)
            yield from made

    written = write_documents(task.target, documents())
    return {**counts, "documents": written, "dropped": dict(dropped)}


def _repositories(task: AssembleTask) -> Iterator[tuple[str, Read]]:
    most = task.config.max_file_characters
    for path in task.paths:
        yield repository_name(path), read_repository(path, most)
    for module in task.modules:
        yield module, read_module(module, most)
    found: dict[str, Read] = defaultdict(lambda: Read(most))
    for part in task.parts:
        for document in read_documents(part):
            name = document.metadata[task.config.repository_key]
            found[name].add_text(document.metadata[task.config.path_key].lstrip("/"), document.text)
    yield from sorted(found.items())
