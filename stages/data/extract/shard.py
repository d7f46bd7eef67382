"""One shard: input files in, documents and problems out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.pipeline.documents import Document, shard_name, write_documents
from longcat.pipeline.files import atomic_path, canonical_json
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import Decoded, decode
from longcat.stages.data.extract.guard import page_guard
from longcat.stages.data.extract.inputs import InputFile
from longcat.stages.data.extract.notebook import read_notebook
from longcat.stages.data.extract.reader import read_file
from longcat.stages.data.extract.records import Problem, Record, Rejected

# Enough to find out what is wrong with a file; a broken file of a billion lines must not fill the disk with lines.
LISTED_PROBLEMS_A_FILE = 1000


LEADING_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


@dataclass(frozen=True)
class Task:
    """The files of one shard, its number, and where documents and problems go."""

    number: int
    files: tuple[InputFile, ...]
    documents: Path
    problems: Path
    config: ExtractConfig


def problems_name(number: int) -> str:
    """File name of the problems of shard `number`, before they are joined: `problems-00000.jsonl`."""
    return f"problems-{number:05d}.jsonl"


def extract_shard(task: Task) -> dict[str, Any]:
    """Write the documents and the problems of one shard.

    Returns counts: documents in and out, dropped by reason, characters, replaced characters, other records.

    Raises:
        InputError: a Parquet file lacks the column that the configuration names.
    """
    tally: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    with _problem_lines(task.problems / problems_name(task.number)) as problems:

        def documents() -> Iterator[Document]:
            for file in task.files:
                listed = _Listed(problems, file.source)
                for item in read_file(file, task.config, tally):
                    tally["documents_in"] += 1
                    made = _to_document(item, file.source, task.config) if isinstance(item, Record) else item
                    if isinstance(made, Problem):
                        dropped[made.reason] += 1
                        listed.add(made)
                        continue
                    tally["documents_out"] += 1
                    tally["characters_out"] += len(made.text)
                    tally["replaced_characters"] += made.metadata.get("replaced_characters", 0)
                    yield made
                listed.close()

        write_documents(task.documents / shard_name(task.number), documents())
    return {**tally, "dropped": dict(sorted(dropped.items()))}


def document_id(source: str, key: str) -> str:
    """32 hex digits of BLAKE2b over the source's name and the record's key in it."""
    return hashlib.blake2b(f"{source}\0{key}".encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _to_document(record: Record, source: str, config: ExtractConfig) -> Document | Problem:
    try:
        text, found = _text_of(record, config)
        if len(text) < config.min_text_chars:
            reason = "short_text" if text else "no_text"
            raise Rejected(reason, f"{len(text)} characters, at least {config.min_text_chars} are asked for")
    except Rejected as rejected:
        return Problem(rejected.reason, rejected.detail, record.place, record.key, record.url)
    metadata = {**record.metadata, "kind": record.kind, **found}
    return Document(document_id(source, record.key), text, source, record.url, record.language, metadata)


def _text_of(record: Record, config: ExtractConfig) -> tuple[str, dict[str, Any]]:
    """The text of a record, trimmed, and what its decoding and extraction found out."""
    found: dict[str, Any] = {}
    if isinstance(record.content, str):
        # Where a corpus states the kind of its texts itself, that is kept.
        found = {"kind": record.metadata["kind"]} if isinstance(record.metadata.get("kind"), str) else {}
        return _trimmed(record.content), found
    if record.kind != "html":
        decoded = decode(record.content, record.charset)
        if record.kind == "notebook":
            return _of_notebook(decoded, config.notebook_output_chars)
        return _trimmed(decoded.text), _encoding(decoded.encoding, decoded.replaced)
    page = page_guard().extract(record.content, record.charset, config.max_page_seconds, config.extractor)
    found = {
        "title": page.title,
        "html_language": page.language,
        "date": page.date,
        "canonical_url": page.canonical,
        "page_kind": page.kind,
        "extraction_fallback": page.fallback,
    }
    return page.text, {name: value for name, value in found.items() if value} | _encoding(page.encoding, page.replaced)


def _of_notebook(decoded: Decoded, output_characters: int) -> tuple[str, dict[str, Any]]:
    notebook = read_notebook(decoded.text, output_characters)
    found = {"title": notebook.title, "programming_language": notebook.language}
    given = {name: value for name, value in found.items() if value}
    return _trimmed(notebook.text), given | _encoding(decoded.encoding, decoded.replaced)


def _trimmed(text: str) -> str:
    """Without blank lines before and blanks behind; the first line keeps its indentation."""
    return LEADING_BLANK_LINES.sub("", text).rstrip()


def _encoding(name: str, replaced: int) -> dict[str, Any]:
    return {"encoding": name, "replaced_characters": replaced} if replaced else {"encoding": name}


class _Listed:
    """Writes the first problems of one file as lines, then one line that tells how many more there were."""

    def __init__(self, stream: Any, source: str) -> None:
        self._stream = stream
        self._source = source
        self._count = 0

    def add(self, problem: Problem) -> None:
        self._count += 1
        if self._count <= LISTED_PROBLEMS_A_FILE:
            self._stream.write(canonical_json(problem.to_json(self._source)) + b"\n")

    def close(self) -> None:
        if self._count > LISTED_PROBLEMS_A_FILE:
            more = {"file": self._source, "reason": "not_listed", "problems": self._count - LISTED_PROBLEMS_A_FILE}
            self._stream.write(canonical_json(more) + b"\n")


@contextmanager
def _problem_lines(path: Path) -> Iterator[Any]:
    with atomic_path(path) as aside, aside.open("wb") as stream:
        yield stream
