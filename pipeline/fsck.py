"""Store check: one finding per problem, and repair from redundant data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from longcat.pipeline.artifact import ID_PATTERN, KINDS, MANIFEST_NAME, Artifact
from longcat.pipeline.errors import IntegrityError, LongcatError, NewerArtifactError
from longcat.pipeline.files import atomic_write, is_temporary, read_json_lines
from longcat.pipeline.lock import locked
from longcat.pipeline.refs import Version, is_name_file
from longcat.pipeline.shallow import absent_on_purpose
from longcat.pipeline.store import Broken, Store
from longcat.pipeline.trash import Entry

Repair = Callable[[], str]


@dataclass(frozen=True)
class Finding:
    """One problem: where, what, and its repair, if there is one.

    A `note` is reported but is not damage.
    """

    where: str
    what: str
    repair: Repair | None = None
    note: bool = False


@dataclass(frozen=True)
class Checked:
    """A verified artifact and its differences from the manifest."""

    artifact: Artifact
    problems: list[str]


def check_artifacts(artifacts: Iterable[Artifact]) -> Iterator[Checked]:
    """Verify every byte of the artifacts against their manifests, one by one."""
    return (Checked(artifact, artifact.damage()) for artifact in artifacts)


def check_structure(store: Store) -> list[Finding]:
    """All problems other than artifact bytes: manifests, names, inputs, foreign files."""
    artifacts, broken = store.scan()
    return [
        *(_of_broken(store, item) for item in broken),
        *_names(store),
        *_inputs(store, artifacts),
        *_strays(store),
    ]


def repairs_of(store: Store, checked: Checked) -> list[Finding]:
    """Findings of one artifact; foreign files in it can be moved aside."""
    strangers = dict(checked.artifact.strangers())
    found = []
    for problem in checked.problems:
        name = next((name for name, what in strangers.items() if problem == f"{name}: {what}"), None)
        repair = None if name is None else _move_aside(store, checked.artifact, name)
        found.append(Finding(str(checked.artifact.path), problem, repair))
    return found


def _move_aside(store: Store, artifact: Artifact, name: str) -> Repair:
    def repair() -> str:
        path = artifact.path / name
        if is_temporary(path):  # left by a killed repair
            store.trash.purge(path)
            return "deleted"
        place = str(path.relative_to(store.root))
        entry = Entry(what="file", id=artifact.id, reason="does not belong there", removed=time.time(), path=place)
        store.trash.put(path, entry)
        return "moved into quarantine"

    return repair


def _of_broken(store: Store, item: Broken) -> Finding:
    where = str(item.path)
    if isinstance(item.error, NewerArtifactError):
        return Finding(where, item.error.what, note=True)
    spare = store.spare_manifest(item.path.name)
    if spare is None or spare.kind != item.path.parent.name or spare.id != item.path.name:
        return Finding(where, item.error.what)
    whole = Artifact(item.path, spare)
    if whole.missing_or_resized():
        return Finding(where, f"{item.error.what}; {len(whole.missing_or_resized())} of its files are missing too")

    def repair() -> str:
        with locked(store.lock_path(spare.id)):
            atomic_write(item.path / MANIFEST_NAME, spare.to_json())
            if damaged := whole.damage():
                raise IntegrityError(damaged[0], where=where)
        return "the manifest was written again from its second copy"

    return Finding(where, item.error.what, repair)


def _names(store: Store) -> Iterator[Finding]:
    for name, error in store.refs.unreadable().items():
        path = store.refs.path(name)
        known = isinstance(error, NewerArtifactError)
        versions = [] if known else versions_from_logs(store, name)
        yield Finding(str(path), error.what, _rewrite(store, name, versions) if versions else None, note=known)
    for named in store.refs.every():
        kind, identifier = named.version.kind, named.version.id
        if not store.folder(kind, identifier).is_dir():
            aside = store.trash.find(identifier, "artifact")
            yield Finding(
                f"{named.name}@{named.number}",
                f"leads to {kind}/{identifier}, which is missing",
                _take_back(store, identifier) if aside is not None else None,
            )


def _rewrite(store: Store, name: str, versions: list[Version]) -> Repair:
    def repair() -> str:
        with store.refs.changing():
            store.refs.write(name, versions)
        return f"{len(versions)} versions were read from the run logs"

    return repair


def _take_back(store: Store, identifier: str) -> Repair:
    def repair() -> str:
        with locked(store.lock_path(identifier)):
            store.take_back(identifier, "artifact")
        return "restored from quarantine"

    return repair


def versions_from_logs(store: Store, name: str) -> list[Version]:
    """Versions of a name from the run logs: every naming is a line in the log of its artifact."""
    found: dict[int, Version] = {}
    for path in sorted((store.root / "logs").glob("*.jsonl")):
        if not ID_PATTERN.fullmatch(path.stem):
            continue
        for line in read_json_lines(path):
            if line.get("event") == "named" and line.get("name") == name:
                with suppress(ValueError, TypeError, KeyError):
                    version = {"id": path.stem, "kind": line["kind"], "created": line["time"]}
                    found[int(line["number"])] = Version.model_validate(version)
    numbers = sorted(found)
    return [found[number] for number in numbers] if numbers == list(range(1, len(numbers) + 1)) else []


def _inputs(store: Store, artifacts: list[Artifact]) -> Iterator[Finding]:
    on_purpose = absent_on_purpose(store)
    for artifact in artifacts:
        for reference in artifact.manifest.ancestors():
            if not store.folder(reference.kind, reference.id).is_dir() and reference.id not in on_purpose:
                aside = store.trash.find(reference.id, "artifact")
                yield Finding(
                    str(artifact.path),
                    f"its input {reference.kind}/{reference.id} is missing",
                    _take_back(store, reference.id) if aside is not None else None,
                )


def _strays(store: Store) -> Iterator[Finding]:
    """Entries where only artifacts and names belong, but are neither; harmless and left in place."""
    for kind in KINDS:
        for path in sorted((store.root / kind).glob("*")):
            if not ID_PATTERN.fullmatch(path.name) or not path.is_dir():
                yield Finding(str(path), "is not an artifact", note=True)
    for path in sorted(store.refs.folder.glob("*")):
        if not is_name_file(path) and path.name != ".lock":
            yield Finding(str(path), "is not a name file", note=True)


def repair(findings: Iterable[Finding]) -> list[tuple[Finding, str, bool]]:
    """Run the repairs; yields each with what it did or why it failed, and whether the damage is repaired."""
    done = []
    for finding in findings:
        if finding.repair is None:
            continue
        try:
            done.append((finding, finding.repair(), True))
        except (LongcatError, OSError) as error:
            done.append((finding, str(error), False))
    return done
