"""Verification of an artifact's files: digests are compared before the bytes are used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from longcat.pipeline.artifact import MANIFEST_NAME, Artifact, FileEntry, read_manifest
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import sha256_file
from longcat.pipeline.progress import Progress, SilentProgress

# Hashing less than this takes under a second.
SILENT_BYTES = 256 << 20
THREADS = 4
MEGA = 1_000_000


def check_top_files(folder: Path, progress: Progress | None = None) -> None:
    """Check that the files directly in an artifact's folder match its manifest: complete, unchanged, no others.

    A folder without a manifest is not an artifact and is skipped. Files in subfolders are not checked: in a checkpoint
    they are the training state, larger than the weights.

    Raises:
        IntegrityError: a file is missing, changed or unexpected; names it and says what to do.
    """
    if not (folder / MANIFEST_NAME).exists():
        return
    artifact = Artifact(folder, read_manifest(folder / MANIFEST_NAME))
    gone = set(artifact.missing_or_resized())
    entries = [entry for entry in artifact.manifest.files if "/" not in entry.path]
    for entry in entries:
        if entry.path in gone:
            raise _damage(artifact, entry.path, "is missing, not a plain file, or its size differs from the manifest")
    for name, what in artifact.strangers():
        if "/" not in name:
            raise _damage(artifact, name, f"is {what}")
    changed = _changed(folder, entries, progress or SilentProgress())
    if changed:
        raise _damage(artifact, changed[0], "its sha256 differs from the manifest")


def _changed(folder: Path, entries: Sequence[FileEntry], progress: Progress) -> list[str]:
    size = sum(entry.size for entry in entries)
    shown = progress if size > SILENT_BYTES else SilentProgress()
    changed = []
    with (
        shown.task("checking", total=round(size / MEGA, 1), unit="MB") as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        running = {pool.submit(sha256_file, folder / entry.path): entry for entry in entries}
        try:
            for done in as_completed(running):
                entry = running[done]
                if done.result() != entry.sha256:
                    changed.append(entry.path)
                bar.advance(round(entry.size / MEGA, 1))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(changed)


def _damage(artifact: Artifact, name: str, what: str) -> IntegrityError:
    hint = (
        f"`longcat artifacts verify {artifact.id}` lists all differences; restore the file or make the artifact again"
    )
    return IntegrityError(what, where=str(artifact.path / name), hint=hint)
