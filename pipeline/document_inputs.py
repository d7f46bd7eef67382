"""Documents of one or several artifacts that a stage reads as one collection, with ids that are unique across them.

An id that occurs in more than one of the artifacts is read as `ID@ARTIFACT-ID`, in every document that has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.files import atomic_path
from longcat.pipeline.stage import Context

ROLE = "documents"
KEY_SPACE = 1 << 64
# Ids compared at a time; takes about 100 MiB.
IDS_A_STEP = 1 << 22

Keys = npt.NDArray[np.uint64]
_NONE = np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True)
class InputShard:
    """One shard: its file, the id of its artifact, and a sorted .npy of keys of ids in several artifacts, if any."""

    path: Path
    artifact: str
    shared: Path | None = None

    def documents(self) -> Iterator[Document]:
        """Documents of the shard; raises as `read_documents`."""
        if self.shared is None:
            yield from read_documents(self.path)
            return
        shared = np.load(self.shared, mmap_mode="r")
        for document in read_documents(self.path):
            key = _key(document.id)
            at = int(np.searchsorted(shared, key))
            both = at < len(shared) and shared[at] == key
            yield replace(document, id=f"{document.id}@{self.artifact}") if both else document


@dataclass(frozen=True)
class DocumentInputs:
    """All shards in the order in which their artifacts were given, and the number of ids in several artifacts."""

    artifacts: tuple[Artifact, ...]
    shards: tuple[InputShard, ...]
    shared_ids: int = 0

    @property
    def places(self) -> str:
        """Folders of the artifacts, for errors."""
        return ", ".join(str(artifact.path) for artifact in self.artifacts)

    def counts(self, results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
        """`{"inputs": [{"id": ARTIFACT-ID, NAME: SUM, ...}]}` from one result per shard; empty for one artifact."""
        if len(self.artifacts) < 2:
            return {}
        found = []
        for artifact in self.artifacts:
            own = [result for shard, result in zip(self.shards, results, strict=True) if shard.artifact == artifact.id]
            found.append({"id": artifact.id, **{name: sum(result.get(name, 0) for result in own) for name in names}})
        return {"inputs": found}

    def metrics(self) -> dict[str, int]:
        """`ids_in_several_inputs`; empty for one artifact."""
        return {"ids_in_several_inputs": self.shared_ids} if len(self.artifacts) > 1 else {}


def plain_inputs(artifacts: Sequence[Artifact]) -> DocumentInputs:
    """Shards of the artifacts with unchanged ids."""
    shards = [InputShard(path, artifact.id) for artifact in artifacts for path in document_shards(artifact)]
    return DocumentInputs(tuple(artifacts), tuple(shards))


def document_inputs(context: Context[Any], role: str = ROLE) -> DocumentInputs:
    """Shards of all artifacts of a role; ids of several artifacts are compared first.

    Raises:
        IntegrityError: a shard is damaged.
    """
    inputs = plain_inputs(context.many(role))
    if len(inputs.artifacts) < 2:
        return inputs
    tasks = [_KeyTask(shard, context.work / f"ids-{number:05d}.npy") for number, shard in enumerate(inputs.shards)]
    context.map_shards(_write_keys, tasks, description="comparing ids")
    found = _in_several(tasks, [artifact.id for artifact in inputs.artifacts])
    if not len(found):
        return inputs
    context.logger.warning("%d ids are in several inputs; there ID becomes ID@ARTIFACT-ID", len(found))
    path = context.work / "shared-ids.npy"
    _save(path, found)
    return DocumentInputs(inputs.artifacts, tuple(replace(shard, shared=path) for shard in inputs.shards), len(found))


@dataclass(frozen=True)
class _KeyTask:
    """Task: write the distinct keys of the ids of a shard, sorted, to `keys`."""

    shard: InputShard
    keys: Path


def _write_keys(task: _KeyTask) -> dict[str, Any]:
    keys = np.fromiter((_key(document.id) for document in task.shard.documents()), dtype=np.uint64)
    _save(task.keys, np.unique(keys))
    return {"documents": len(keys)}


def _in_several(tasks: Sequence[_KeyTask], artifacts: Sequence[str]) -> Keys:
    """Sorted keys in the shards of more than one artifact; one range of keys is in memory at a time."""
    files = {
        artifact: [np.load(task.keys, mmap_mode=_mode(task.keys)) for task in tasks if task.shard.artifact == artifact]
        for artifact in artifacts
    }
    parts = max(1, -(-sum(len(keys) for of_one in files.values() for keys in of_one) // IDS_A_STEP))
    found = []
    for part in range(parts):
        low, high = KEY_SPACE * part // parts, KEY_SPACE * (part + 1) // parts - 1
        ranges = [[_range(keys, low, high) for keys in of_one] for of_one in files.values()]
        distinct = [np.unique(np.concatenate([_NONE, *of_one])) for of_one in ranges]
        values, counts = np.unique(np.concatenate(distinct), return_counts=True)
        found.append(values[counts > 1])
    return np.concatenate(found)


def _range(keys: Keys, low: int, high: int) -> Keys:
    start = np.searchsorted(keys, np.uint64(low))
    return np.array(keys[start : np.searchsorted(keys, np.uint64(high), side="right")])


def _mode(path: Path) -> Any:
    return "r" if path.stat().st_size > 128 else None  # an array without rows cannot be mapped


def _key(identifier: str) -> np.uint64:
    digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _save(path: Path, keys: Keys) -> None:
    with atomic_path(path) as aside, aside.open("wb") as stream:
        np.save(stream, keys, allow_pickle=False)
