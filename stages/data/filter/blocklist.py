"""Blocklists of domains and URLs: read once into sorted 64-bit hashes, which all processes map into memory.

A line is a domain, an address and domains (hosts format), or a URL of which all longer ones are blocked too. A domain
blocks its subdomains.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import open_input
from longcat.pipeline.files import atomic_path
from longcat.pipeline.printable import printable
from longcat.pipeline.stage import Context
from longcat.pipeline.url_keys import UrlKey, host_key, is_address, url_key
from longcat.stages.data.rules.config import FilterConfig
from longcat.stages.data.rules.judge import BLOCKED_DOMAIN, BLOCKED_URL

MAX_LINE_BYTES = 1 << 16
MAX_URL_CHARACTERS = 4096
# Kinds of entries: a domain, the beginning of a URL, and its host, without which no beginning is looked up.
DOMAIN, URL, HOST = "d", "u", "h"
SHOWN_LINES = 3
_EMPTY_NPY_BYTES = 128  # an array without rows cannot be mapped
_GZIP = b"\x1f\x8b"
_COMMENTS = ("#", "!", ";")

Keys = npt.NDArray[np.uint64]


def read_blocklists(context: Context[FilterConfig]) -> tuple[tuple[Path, ...], list[dict[str, Any]]]:
    """Read the lists of the configuration; returns their files of hashes, and their names and numbers of entries."""
    lists = context.config.blocklists
    tasks = [BlocklistTask(path, context.work / f"blocklist-{number:03d}.npy") for number, path in enumerate(lists)]
    results = context.map_shards(read_blocklist, tasks, description="reading blocklists") if tasks else []
    for path, result in zip(lists, results, strict=True):
        if examples := result.pop("ignored"):
            shown = "; ".join(f"line {number}: {printable(line)}" for number, line in examples)
            context.logger.warning("%s: %d lines are not entries: %s", path, result["lines_ignored"], shown)
    listed = [{"name": path, **result} for path, result in zip(lists, results, strict=True)]
    return tuple(task.keys for task in tasks), listed


def blocked_counts(listed: Sequence[dict[str, Any]], totals: Mapping[str, int]) -> list[dict[str, Any]]:
    """One record per list, with the documents dropped by it; those in several lists count for the first."""
    return [{**record, "documents": totals.get(f"blocked.{number}", 0)} for number, record in enumerate(listed)]


@dataclass(frozen=True)
class BlocklistTask:
    """Task: read the list `path` into the sorted hashes `keys` (.npy)."""

    path: str
    keys: Path


def read_blocklist(task: BlocklistTask) -> dict[str, Any]:
    """Hash the entries of one list.

    Returns the number of domains and URLs, of lines that are neither, and the first of those lines.

    Raises:
        InputError: it cannot be read, or has no entries.
    """
    keys = array("Q")
    counts = {"domains": 0, "urls": 0, "lines_ignored": 0}
    ignored: list[list[Any]] = []
    for number, line in _lines(task.path):
        found = parse_line(line)
        if found is None:
            counts["lines_ignored"] += 1
            if len(ignored) < SHOWN_LINES:
                ignored.append([number, line[:80]])
            continue
        for kind, entry in found:
            keys.append(_key(kind, entry))
            if kind != HOST:
                counts["domains" if kind == DOMAIN else "urls"] += 1
    if not counts["domains"] + counts["urls"]:
        raise InputError("no domains and no URLs in this list", where=task.path)
    with atomic_path(task.keys) as aside, aside.open("wb") as stream:
        np.save(stream, np.unique(np.frombuffer(keys, dtype=np.uint64)), allow_pickle=False)
    return {**counts, "ignored": ignored}


def parse_line(line: str) -> list[tuple[str, str]] | None:
    """Entries of a line, kind and text; None if it is not understood.

    Names without a dot in hosts format (localhost) are not entries.
    """
    words = _without_comment(line).split()
    if len(words) > 1:
        names = [host_key(word) for word in words[1:]]
        if not is_address(words[0].partition("%")[0]) or None in names:
            return None
        return [(DOMAIN, name) for name in names if name and "." in name and not is_address(name)]
    return _entry(words[0]) if words else []


def _entry(word: str) -> list[tuple[str, str]] | None:
    if word.startswith("||") and word.endswith("^"):
        word = word[2:-1]
    if is_address(word):
        word = f"[{word}]" if ":" in word else word
    elif "/" in word or ":" in word:
        key = url_key(word)
        host, text = _host_and_text(key) if key else ("", "")
        return [(HOST, host), (URL, text)] if host and len(text) <= MAX_URL_CHARACTERS else None
    host_name = host_key(word.removeprefix("*").removeprefix("."))
    return None if host_name is None else [(DOMAIN, host_name)]


def _host_and_text(key: UrlKey) -> tuple[str, str]:
    """Host without `www.`, and the text of which a listed URL is the beginning."""
    host = key.host.removeprefix("www.")
    return host, host + key.rest


class Blocklists:
    """Looks up the URLs of documents in lists read by `read_blocklist`."""

    def __init__(self, keys: Sequence[Path]) -> None:
        self._lists: list[Keys] = [
            np.load(path, mmap_mode="r" if path.stat().st_size > _EMPTY_NPY_BYTES else None) for path in keys
        ]

    def find(self, url: str | None) -> tuple[str, int] | None:
        """Drop reason of a document with this URL, and the number of the first list with it; None if in none."""
        key = url_key(url) if url else None
        if key is None:
            return None
        domains = [_key(DOMAIN, name) for name in key.domains()]
        if (number := self._first(domains)) is not None:
            return BLOCKED_DOMAIN, number
        host, text = _host_and_text(key)
        if self._first([_key(HOST, host)]) is None:
            return None
        lengths = range(len(host) + 1, min(len(text), MAX_URL_CHARACTERS) + 1)
        number = self._first([_key(URL, text[:length]) for length in lengths])
        return None if number is None else (BLOCKED_URL, number)

    def _first(self, keys: list[int]) -> int | None:
        """Number of the first list with any of the keys."""
        wanted = np.array(keys, dtype=np.uint64)
        for number, known in enumerate(self._lists):
            at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            if (known[at] == wanted).any():
                return number
        return None


def _key(kind: str, text: str) -> int:
    digest = hashlib.blake2b(f"{kind} {text}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _without_comment(line: str) -> str:
    if line.lstrip().startswith(_COMMENTS):
        return ""
    before, sign, _ = line.partition("#")
    return before if sign and before[-1:].isspace() else line


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a list, plain or gzip; a line of over 64 KiB is cut."""
    try:
        with open_input(Path(path).expanduser()) as raw:
            stream: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if raw.peek(2)[:2] == _GZIP else raw
            reader = io.BufferedReader(cast(io.RawIOBase, stream))
            number = 0
            while line := reader.readline(MAX_LINE_BYTES):
                number += 1
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip()
    except IsADirectoryError:
        raise InputError("is a folder, not a list", where=path) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"not whole gzip data: {error}", where=path) from None
