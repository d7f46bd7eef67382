"""One shard: input files in, documents and problems out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.pipeline.documents import Document, shard_name, write_documents
from longcat.pipeline.files import atomic_path, canonical_json
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.base import trimmed
from longcat.stages.data.extract.formats.registry import TEXTS
from longcat.stages.data.extract.parts import Part
from longcat.stages.data.extract.problems import ListedProblems, problems_name
from longcat.stages.data.extract.reader import read_file
from longcat.stages.data.extract.records import Problem, Record, Rejected


@dataclass(frozen=True)
class ExtractTask:
    """Parts of files of one shard, its number, and output paths."""

    number: int
    parts: tuple[Part, ...]
    documents: Path
    problems: Path
    config: ExtractConfig


def extract_shard(task: ExtractTask) -> dict[str, Any]:
    """Write the documents and the problems of one shard.

    Returns counts: documents in and out, dropped by reason, characters, replaced characters, other records.

    Raises:
        InputError: a Parquet file lacks the configured column.
    """
    tally: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    with _problem_lines(task.problems / problems_name(task.number)) as problems:

        def documents() -> Iterator[Document]:
            for part in task.parts:
                source = part.file.source
                listed = ListedProblems(problems, source)
                for item in read_file(part.file, task.config, tally, part):
                    tally["documents_in"] += 1
                    made = _to_document(item, source, task.config) if isinstance(item, Record) else item
                    if isinstance(made, Problem):
                        dropped[made.reason] += 1
                        listed.add(canonical_json(made.to_json(source)) + b"\n")
                        continue
                    tally["documents_out"] += 1
                    tally["characters_out"] += len(made.document.text)
                    tally["replaced_characters"] += made.replaced
                    yield made.document
                listed.close()

        write_documents(task.documents / shard_name(task.number), documents())
    return {**tally, "dropped": dict(sorted(dropped.items()))}


def document_id(source: str, key: str) -> str:
    """Document id: 32 hex digits of BLAKE2b over source name and record key."""
    return hashlib.blake2b(f"{source}\0{key}".encode(errors="surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Made:
    """A document, and the number of its characters that were replaced; corpora may have metadata of that name."""

    document: Document
    replaced: int


def _to_document(record: Record, source: str, config: ExtractConfig) -> _Made | Problem:
    try:
        text, found = _text_of(record, config)
        if len(text) < config.min_text_chars:
            reason = "short_text" if text else "no_text"
            raise Rejected(reason, f"{len(text)} characters, at least {config.min_text_chars} are required")
    except Rejected as rejected:
        return Problem(rejected.reason, rejected.detail, record.place, record.key, record.url)
    metadata = {**record.metadata, "kind": record.kind, **found}
    replaced = record.replaced + found.get("replaced_characters", 0)
    if replaced:
        metadata["replaced_characters"] = replaced
    document = Document(document_id(source, record.key), text, source, record.url, record.language, metadata)
    return _Made(document, replaced)


def _text_of(record: Record, config: ExtractConfig) -> tuple[str, dict[str, Any]]:
    """Trimmed text of a record, and metadata from decoding and extraction."""
    if isinstance(record.content, str) and record.kind == "text":
        text, found = trimmed(record.content), dict[str, Any]()
    elif isinstance(record.content, str):
        text, found = TEXTS[record.kind].text_of(record, record.content.encode(), config)
        del found["encoding"]
    else:
        text, found = TEXTS[record.kind].text_of(record, record.content, config)
    stated = record.metadata.get("kind")
    # A kind stated by the corpus is kept.
    return text, found | {"kind": stated} if record.kind == "text" and isinstance(stated, str) else found


@contextmanager
def _problem_lines(path: Path) -> Iterator[Any]:
    with atomic_path(path) as aside, aside.open("wb") as stream:
        yield stream
