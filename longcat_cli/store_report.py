"""Printing of operations on a store: checks, repairs, collection, transfers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longcat.cli.console import duration, out, print_json, say, size
from longcat.cli.tables import table
from longcat.cli.terminal import styled

if TYPE_CHECKING:
    from longcat.pipeline.fsck import Checked, Finding
    from longcat.pipeline.gc import Survey
    from longcat.pipeline.removal import Removed
    from longcat.pipeline.store import Broken, Store
    from longcat.pipeline.transfer import Moved
    from longcat.pipeline.trash import Trashed


def warn_of_broken(broken: Sequence[Broken]) -> None:
    """Print a line on stderr for every artifact folder that cannot be read."""
    for item in broken:
        say(f"longcat: {item.error}")


def print_checks(store: Store, checked: Sequence[Checked], findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print the result of verifying artifacts against their manifests, and other problems."""
    if as_json:
        artifacts = [
            {"id": c.artifact.id, "kind": c.artifact.kind, "whole": not c.problems, "problems": c.problems}
            for c in checked
        ]
        print_json({"artifacts": artifacts, "findings": [finding_json(finding) for finding in findings]})
        return
    names = store.names_by_id()
    rows = table("artifact", "names", "~state")
    for item in checked:
        state = styled("; ".join(item.problems), "red") if item.problems else styled("whole", "green")
        rows.add_row(f"{item.artifact.kind}/{item.artifact.id}", ", ".join(names.get(item.artifact.id, [])), state)
    if checked:
        out().print(rows)
    for finding in findings:
        out().print(f"{'note' if finding.note else 'damage'}: {finding.where}: {finding.what}")


def finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "where": finding.where,
        "what": finding.what,
        "damage": not finding.note,
        "repairable": finding.repair is not None,
    }


def print_repairs(done: Sequence[tuple[Finding, str, bool]], *, as_json: bool) -> None:
    """Print what was repaired, and what could not be."""
    if as_json:
        print_json([{**finding_json(f), "repaired": ok, "says": says} for f, says, ok in done])
        return
    for finding, says, ok in done:
        out().print(f"{'repaired' if ok else 'failed'}: {finding.where}: {says}")
    if not done:
        out().print("nothing to repair")


def print_collection(found: Survey, *, done: bool, now: bool, as_json: bool) -> None:
    """Print what `gc` found or did, the unfinished runs it keeps, and what it could not decide."""
    gone = [item for item in found.garbage if item.kept is None]
    total = sum(item.size for item in gone)
    if as_json:
        items = [
            {"path": str(i.path), "what": i.what, "id": i.id, "reason": i.reason, "bytes": i.size, "kept": i.kept}
            for i in found.garbage
        ]
        runs = [
            {
                "id": run.id,
                "stage": run.stage,
                "name": run.name,
                "progress": run.progress,
                "age_seconds": round(run.age_seconds),
                "bytes": run.size,
                "active": run.active,
            }
            for run in found.unfinished
        ]
        answer = {"deleted": done, "bytes": total, "items": items, "unfinished": runs, "problems": found.problems}
        print_json(answer)
        return
    rows = table("what", ">size", "~reason", "folder")
    for item in found.garbage:
        reason = item.reason if item.kept is None else f"kept: {item.kept}"
        rows.add_row(item.what, size(item.size), reason, str(item.path))
    if found.garbage:
        out().print(rows)
    for run in found.unfinished:
        state = "at work" if run.active else f"stopped {duration(run.age_seconds)} ago, kept (--unfinished)"
        out().print(f"unfinished {run.id}  {run.label}, {size(run.size)}: {state}")
    for problem in found.problems:
        say(f"longcat: {problem}")
    out().print(f"{len(gone)} folders, {size(total)} {_verdict(done, now)}")


def _verdict(done: bool, now: bool) -> str:
    if not done:
        return "would be collected with --yes"
    return "deleted" if now else "moved into quarantine (`artifacts restore`); --now deletes permanently"


def print_quarantine(items: Sequence[Trashed], *, as_json: bool) -> None:
    """Print what can be restored."""
    if as_json:
        print_json([{**item.entry.model_dump(mode="json"), "folder": str(item.folder)} for item in items])
        return
    from datetime import UTC, datetime

    if not items:
        out().print("the quarantine is empty")
        return
    rows = table("id", "what", "removed", "~reason")
    for item in items:
        when = datetime.fromtimestamp(item.entry.removed, UTC).strftime("%Y-%m-%d %H:%MZ")
        rows.add_row(item.entry.id, item.entry.kind or item.entry.what, when, item.entry.reason)
    out().print(rows)


def print_removed(store: Store, removed: Removed, *, as_json: bool) -> None:
    """Print the removed names and what happened to their artifacts."""
    if as_json:
        print_json(
            {
                "names": [f"{named.name}@{named.number}" for named in removed.names],
                "removed": [artifact.id for artifact in removed.artifacts],
                "kept": [{"id": artifact.id, "because": why} for artifact, why in removed.kept],
            }
        )
        return
    for named in removed.names:
        out().print(f"{named.name}@{named.number} was removed")
    for artifact in removed.artifacts:
        total = size(artifact.manifest.total_bytes)
        out().print(f"{artifact.kind}/{artifact.id} ({total}) is in quarantine; `artifacts restore {artifact.id}`")
    for artifact, why in removed.kept:
        out().print(f"{artifact.kind}/{artifact.id} stays: {why}")


def print_moved(moved: Sequence[Moved], target: str, name: str | None, *, as_json: bool) -> None:
    """Print what was copied to another store."""
    if as_json:
        items = [{"kind": item.kind, "id": item.id, "bytes": item.size, "present": item.present} for item in moved]
        print_json({"target": target, "name": name, "artifacts": items})
        return
    for item in moved:
        says = "already exists" if item.present else size(item.size)
        out().print(f"{item.kind}/{item.id}  {says}")
    out().print(f"{target}{f': {name}' if name else ''}", soft_wrap=True)
