"""Where an artifact came from, how two differ, and which ones nothing stands on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import folder_bytes
from longcat.pipeline.store import Store


def lineage(store: Store, artifact: Artifact) -> dict[str, Any]:
    """The artifact and, below `inputs`, those it was made from, down to the crawl.

    An input that is gone keeps its id and kind and says `"missing": true`.
    """
    manifest = artifact.manifest
    inputs = []
    for role, references in manifest.inputs.items():
        for reference in references:
            found = store.get(reference.kind, reference.id)
            if found is None:
                node: dict[str, Any] = {"id": reference.id, "kind": reference.kind, "missing": True, "inputs": []}
            else:
                node = lineage(store, found)
            inputs.append({"role": role, **node})
    return {
        "id": manifest.id,
        "kind": manifest.kind,
        "stage": manifest.stage,
        "names": store.names_of(manifest.id),
        "counts": manifest.counts,
        "metrics": manifest.metrics,
        "inputs": inputs,
    }


@dataclass(frozen=True)
class DocumentFlow:
    """How many documents came into the stage of an artifact, went on, and were dropped, by reason."""

    artifact: Artifact
    documents_in: int
    documents_out: int
    dropped: Mapping[str, int]

    @property
    def unaccounted(self) -> int:
        """Documents that neither went on nor were dropped; 0 unless a stage counts wrongly."""
        return self.documents_in - self.documents_out - sum(self.dropped.values())


def document_flows(artifacts: Iterable[Artifact]) -> list[DocumentFlow]:
    """The flow through every stage that takes documents and hands documents on, in the order given."""
    found = []
    for artifact in artifacts:
        counts = artifact.manifest.counts
        if "documents_in" in counts and "documents_out" in counts:
            flow = DocumentFlow(artifact, counts["documents_in"], counts["documents_out"], counts.get("dropped", {}))
            found.append(flow)
    return found


def ancestry(store: Store, artifact: Artifact) -> list[Artifact]:
    """The artifact and what it was made from, as far as the store still has it: inputs first, each once."""
    found: dict[str, Artifact] = {}

    def visit(item: Artifact) -> None:
        for references in item.manifest.inputs.values():
            for reference in references:
                if reference.id not in found and (before := store.get(reference.kind, reference.id)) is not None:
                    visit(before)
        found[item.id] = item

    visit(artifact)
    return list(found.values())


def difference(before: Artifact, after: Artifact) -> dict[str, dict[str, list[Any]]]:
    """What differs between two artifacts, by section: `{"config": {"threshold": [old, new]}}`; None where absent."""
    sections: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        name: (getattr(before.manifest, name), getattr(after.manifest, name))
        for name in ("config", "sources", "counts", "metrics", "environment")
    }
    sections["made by"] = (_origin(before), _origin(after))
    sections["inputs"] = (_inputs(before), _inputs(after))
    sections["files"] = (_files(before), _files(after))
    changes = {name: _changes(flatten(old), flatten(new)) for name, (old, new) in sections.items()}
    return {name: found for name, found in changes.items() if found}


def _origin(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "kind": manifest.kind,
        "stage": manifest.stage,
        "revision": manifest.revision,
        "code": manifest.code_version,
    }


def _inputs(artifact: Artifact) -> dict[str, Any]:
    return {role: ", ".join(item.id for item in items) for role, items in artifact.manifest.inputs.items()}


def _files(artifact: Artifact) -> dict[str, Any]:
    return {entry.path: f"{entry.size} bytes, sha256 {entry.sha256[:12]}" for entry in artifact.manifest.files}


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    keys = [*before, *(key for key in after if key not in before)]
    return {key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)}


@dataclass(frozen=True)
class Garbage:
    """Something `gc` would delete, why, and how many bytes it frees."""

    path: Path
    reason: str
    size: int
    artifact: Artifact | None = None


def garbage(store: Store, *, keep_versions: int | None = None, damaged: bool = False) -> list[Garbage]:
    """What may be deleted: artifacts that no name leads to, and progress that no process works on.

    An artifact is kept if a version of a name stands for it (only the newest `keep_versions` of each name when
    given) or if a kept artifact was made from it. With `damaged`, only artifacts whose files are not what their
    manifest says.
    """
    artifacts, broken = _load_all(store)
    if damaged:
        found = [Garbage(a.path, "damaged", a.manifest.total_bytes, a) for a in artifacts if a.damage()]
        return [*found, *(Garbage(path, "damaged manifest", folder_bytes(path)) for path in broken)]
    kept = _reachable(store, {artifact.id: artifact for artifact in artifacts}, keep_versions)
    unnamed = [Garbage(a.path, "no name leads to it", a.manifest.total_bytes, a) for a in artifacts if a.id not in kept]
    return [*unnamed, *_idle_progress(store)]


def _load_all(store: Store) -> tuple[list[Artifact], list[Path]]:
    from longcat.pipeline.artifact import KINDS

    whole, broken = [], []
    for folder in (folder for kind in KINDS for folder in sorted((store.root / kind).glob("*"))):
        try:
            artifact = store.get(folder.parent.name, folder.name)
        except IntegrityError:
            broken.append(folder)
            continue
        if artifact:
            whole.append(artifact)
    return whole, broken


def _reachable(store: Store, artifacts: Mapping[str, Artifact], keep_versions: int | None) -> set[str]:
    waiting: list[str] = []
    for name in store.refs.names():
        versions = store.refs.versions(name)
        waiting.extend(version.id for version in (versions[-keep_versions:] if keep_versions else versions))
    kept: set[str] = set()
    while waiting:
        identifier = waiting.pop()
        if identifier in kept or identifier not in artifacts:
            continue
        kept.add(identifier)
        inputs = artifacts[identifier].manifest.inputs.values()
        waiting.extend(reference.id for references in inputs for reference in references)
    return kept


def _idle_progress(store: Store) -> list[Garbage]:
    folders = sorted(path for path in (store.root / ".staging").glob("*") if path.is_dir() and path.name != "locks")
    return [
        Garbage(path, "progress of an unfinished run", folder_bytes(path))
        for path in folders
        if not store.in_progress(path.name)
    ]
