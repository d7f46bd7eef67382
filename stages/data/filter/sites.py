"""Lines repeated on many documents of one site: menus, banners and footers.

Two passes: every shard counts the documents of a site per line; the counts of a site are merged in one part, where
frequent lines are selected. Parts are by site, so that no process holds the lines of all sites.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document
from longcat.pipeline.files import atomic_path
from longcat.pipeline.stage import Context
from longcat.stages.data.rules.config import FilterConfig, SiteRules

MAX_PARTS = 16
# A row with the site as key counts the site's documents.
_ROW = np.dtype([("site", "<u8"), ("key", "<u8"), ("documents", "<u4")])
_FENCES = ("```", "~~~")


@dataclass(frozen=True)
class CountTask:
    """Task: one shard to count, and its count files, one per part."""

    shard: InputShard
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class PickTask:
    """Task: one part: counts of all shards, output file of selected lines, and thresholds."""

    counts: tuple[Path, ...]
    output: Path
    rules: SiteRules


def find_templates(context: Context[FilterConfig], shards: Sequence[InputShard]) -> tuple[tuple[Path, ...], int]:
    """Run both passes; returns the files and number of selected lines."""
    folder = context.work / "sites"
    folder.mkdir(parents=True, exist_ok=True)
    parts = range(min(MAX_PARTS, max(1, len(shards))))
    counts = [tuple(folder / f"lines-{number:05d}-{part:02d}.npy" for part in parts) for number in range(len(shards))]
    tasks = [CountTask(shard, outputs) for shard, outputs in zip(shards, counts, strict=True)]
    context.map_shards(count_lines, tasks, description="counting lines of sites")
    picks = [
        PickTask(
            tuple(of_shard[part] for of_shard in counts), folder / f"templates-{part:02d}.npy", context.config.sites
        )
        for part in parts
    ]
    found = context.map_shards(pick_templates, picks, description="picking lines of sites")
    return tuple(pick.output for pick in picks), sum(result["templates"] for result in found)


def count_lines(task: CountTask) -> dict[str, Any]:
    """Count the documents per line for every site of a shard."""
    rows: Counter[tuple[int, int]] = Counter()
    for document in task.shard.documents():
        site = site_of(document)
        if site is None:
            continue
        number = _hash(site, "")
        rows[number, number] += 1
        rows.update((number, key) for key in {_hash(site, line) for line, _ in _judged_lines(document.text)})
    ordered = sorted((site, key, count) for (site, key), count in rows.items())
    table = np.array(ordered, dtype=_ROW)
    for part, output in enumerate(task.outputs):
        _save(output, table[table["site"] % len(task.outputs) == part])
    return {"lines": len(ordered)}


def pick_templates(task: PickTask) -> dict[str, Any]:
    """Select the lines of a part that are on many documents of their site."""
    table = np.concatenate([np.load(path, allow_pickle=False) for path in task.counts])
    table = table[np.lexsort((table["key"], table["site"]))]
    keys, first = np.unique(table["key"], return_index=True)
    totals = np.zeros(len(keys), dtype=np.int64)
    np.add.at(totals, np.searchsorted(keys, table["key"]), table["documents"])
    sites = table["site"][first]
    of_site = totals[np.searchsorted(keys, sites)]
    many = (totals >= task.rules.min_documents) & (totals >= task.rules.min_share * of_site) & (keys != sites)
    _save(task.output, keys[many])
    return {"templates": int(np.count_nonzero(many))}


@lru_cache(maxsize=1)
def load_templates(paths: tuple[Path, ...]) -> frozenset[int]:
    """Hashes of the lines selected in all parts."""
    return frozenset(number for path in paths for number in np.load(path, allow_pickle=False).tolist())


def remove_templates(document: Document, templates: frozenset[int]) -> tuple[str, int]:
    """Text without the lines selected for its site, and number of removed lines."""
    site = site_of(document)
    if site is None:
        return document.text, 0
    gone = {number for line, number in _judged_lines(document.text) if _hash(site, line) in templates}
    if not gone:
        return document.text, 0
    kept: list[str] = []
    for number, line in enumerate(document.text.split("\n")):
        # Where lines between blank ones were removed, one blank line is kept.
        if number not in gone and (line.strip() or (kept and kept[-1].strip())):
            kept.append(line)
    return "\n".join(kept).strip("\n"), len(gone)


def site_of(document: Document) -> str | None:
    """Lower-case host of a document's URL; None without one."""
    try:
        return urlsplit(document.url or "").hostname
    except ValueError:
        return None


def _judged_lines(text: str) -> Iterator[tuple[str, int]]:
    """Numbered lines with normalised whitespace, without headings, table rows, code and lines without letters."""
    fence = ""
    for number, raw in enumerate(text.split("\n")):
        line = " ".join(raw.split())
        if fence or line.startswith(_FENCES):
            fence = line[:3] if not fence else "" if line.startswith(fence) else fence
        elif not line.startswith(("#", "|")) and any(map(str.isalpha, line)):
            yield line, number


def _hash(site: str, line: str) -> int:
    data = f"{site}\n{line}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def _save(path: Path, values: np.ndarray[Any, Any]) -> None:
    with atomic_path(path) as aside, aside.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)
