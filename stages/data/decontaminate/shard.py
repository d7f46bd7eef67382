"""Cleaning of one shard: writes clean documents, and findings to a second file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document, write_documents
from longcat.pipeline.files import atomic_path
from longcat.stages.data.decontaminate.config import DecontaminateConfig
from longcat.stages.data.decontaminate.index import load_index
from longcat.stages.data.decontaminate.match import RULES, Match, Scanner, merge_spans
from longcat.stages.data.decontaminate.word_stream import word_spans

EXCERPT_CHARACTERS = 240
# A cut may join texts to an item; after this many cuts a document is dropped.
MAX_CUTS = 4


@dataclass(frozen=True)
class DecontaminateTask:
    """Task: clean one shard with the index at `index`: documents to `output`, findings to `findings` (parquet)."""

    shard: InputShard
    index: Path
    output: Path
    findings: Path
    config: DecontaminateConfig


@dataclass(frozen=True, slots=True)
class MatchVerdict:
    """Decision about a document: drop reason or None, remaining text, and initial findings."""

    reason: str | None
    text: str
    matches: tuple[Match, ...]


@lru_cache(maxsize=1)
def _scanner(index: Path, similarity: float) -> Scanner:
    return Scanner(load_index(index), similarity)


def clean_shard(task: DecontaminateTask) -> dict[str, Any]:
    """Write the kept documents of one shard, and a row for every item found in a document.

    Returns counts: documents in, out and cut, dropped by reason, characters in and out.

    Raises:
        IntegrityError: the shard is damaged.
    """
    scanner = _scanner(task.index, task.config.similarity)
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []

    def kept() -> Iterator[Document]:
        for document in task.shard.documents():
            verdict = judge(document.text, scanner, task.config)
            counts.update(documents_in=1, characters_in=len(document.text))
            if verdict.matches:
                rows.extend(_rows(document, verdict))
            if verdict.reason is not None:
                dropped[verdict.reason] += 1
                continue
            counts.update(documents_out=1, characters_out=len(verdict.text), documents_cut=int(bool(verdict.matches)))
            yield replace(document, text=verdict.text) if verdict.matches else document

    write_documents(task.output, kept())
    _write_findings(task.findings, rows)
    return {**counts, "dropped": dict(sorted(dropped.items()))}


def judge(text: str, scanner: Scanner, config: DecontaminateConfig) -> MatchVerdict:
    """Decide about one document."""
    first = matches = scanner.scan(text)
    if not first:
        return MatchVerdict(None, text, ())
    if config.action == "drop":
        return MatchVerdict(f"benchmark_{strongest(first)}", text, tuple(first))
    for _ in range(MAX_CUTS):
        text, words = cut(text, matches, config.cut_margin_words)
        if words < config.min_words_left:
            return MatchVerdict("little_left_after_cut", text, tuple(first))
        matches = scanner.scan(text)
        if not matches:
            return MatchVerdict(None, text, tuple(first))
    return MatchVerdict("found_again_after_cut", text, tuple(first))


def strongest(matches: Sequence[Match]) -> str:
    """Most certain rule with a match."""
    return min((match.rule for match in matches), key=RULES.index)


def cut(text: str, matches: Sequence[Match], margin: int) -> tuple[str, int]:
    """Text without the matches and `margin` words around each, and number of remaining words."""
    places = word_spans(text)
    widened = [(max(0, a - margin), min(len(places), b + margin)) for match in matches for a, b in match.spans]
    pieces: list[str] = []
    words = begin = 0
    for first, last in (*merge_spans(widened), (len(places), len(places))):
        if first > begin:
            start = places[begin][0] if begin else 0
            stop = places[first][0] if first < len(places) else len(text)
            pieces.append(text[start:stop].strip())
            words += first - begin
        begin = last
    return "\n\n".join(pieces), words


def _rows(document: Document, verdict: MatchVerdict) -> Iterator[dict[str, Any]]:
    places = word_spans(document.text)
    for match in verdict.matches:
        first, last = match.spans[0]
        yield {
            "document": document.id,
            "part": match.part,
            "rule": match.rule,
            "places": len(match.spans),
            "ngrams": match.ngrams,
            "share": round(match.share, 4),
            "first_word": first,
            "last_word": match.spans[-1][1],
            "kept": verdict.reason is None,
            "excerpt": document.text[places[first][0] : places[last - 1][1]][:EXCERPT_CHARACTERS],
        }


def _write_findings(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row for every item found in a document, in the order of the documents."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("document", pa.string()),
            ("part", pa.int64()),
            ("rule", pa.string()),
            ("places", pa.int64()),
            ("ngrams", pa.int64()),
            ("share", pa.float64()),
            ("first_word", pa.int64()),
            ("last_word", pa.int64()),
            ("kept", pa.bool_()),
            ("excerpt", pa.string()),
        ]
    )
    with atomic_path(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside, compression="zstd")
