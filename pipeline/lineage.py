"""Lineage of artifacts, and differences between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longcat.pipeline.artifact import Artifact, InputRef, Manifest
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.store import Store


def lineage(store: Store, artifact: Artifact) -> dict[str, Any]:
    """Tree of the artifact and, under `inputs`, its ancestors down to the crawl.

    A missing or damaged input keeps its id and kind and has `"missing": true`.
    """
    return _node(store, artifact.manifest, store.names_by_id())


def _node(store: Store, manifest: Manifest, names: Mapping[str, list[str]]) -> dict[str, Any]:
    inputs = []
    for role, references in manifest.inputs.items():
        for reference in references:
            inputs.append({"role": role, **_node_of(store, reference, names)})
    return {
        "id": manifest.id,
        "kind": manifest.kind,
        "stage": manifest.stage,
        "names": names.get(manifest.id, []),
        "counts": manifest.counts,
        "metrics": manifest.metrics,
        "inputs": inputs,
    }


def _node_of(store: Store, reference: InputRef, names: Mapping[str, list[str]]) -> dict[str, Any]:
    """An input as a node; for a missing one, from the second copy of its manifest."""
    try:
        found = store.get(reference.kind, reference.id)
    except IntegrityError:
        found = None
    if found is not None:
        return _node(store, found.manifest, names)
    spare = store.spare_manifest(reference.id)
    if spare is not None:
        return {**_node(store, spare, names), "missing": True}
    return {"id": reference.id, "kind": reference.kind, "missing": True, "inputs": []}


@dataclass(frozen=True)
class DocumentFlow:
    """Number of documents that entered a stage, were kept, and were dropped by reason."""

    artifact: Artifact
    documents_in: int
    documents_out: int
    dropped: Mapping[str, int]

    @property
    def unaccounted(self) -> int:
        """Documents neither kept nor dropped; 0 unless a stage counts wrongly."""
        return self.documents_in - self.documents_out - sum(self.dropped.values())


def document_flows(artifacts: Iterable[Artifact]) -> list[DocumentFlow]:
    """Flow through every stage that reads and writes documents, in the given order."""
    found = []
    for artifact in artifacts:
        counts = artifact.manifest.counts
        if "documents_in" in counts and "documents_out" in counts:
            flow = DocumentFlow(artifact, counts["documents_in"], counts["documents_out"], counts.get("dropped", {}))
            found.append(flow)
    return found


def ancestry(store: Store, artifact: Artifact) -> list[Artifact]:
    """The artifact and its ancestors still in the store: inputs first, each once."""
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
    """Differences between two artifacts by section: `{"config": {"threshold": [old, new]}}`; None where absent."""
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
    """Flatten nested mappings, keys joined by dots."""
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
