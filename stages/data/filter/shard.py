"""Filtering one shard: kept documents to one file, what was found of every document to another beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from longcat.pipeline.documents import Document, read_documents, shard_name, write_documents
from longcat.pipeline.files import atomic_path
from longcat.stages.data.filter.config import FilterConfig
from longcat.stages.data.filter.rules import Verdict, judge, value_names
from longcat.stages.data.filter.sites import load_templates, remove_templates
from longcat.stages.data.language import LanguageIdentifier
from longcat.stages.data.quality.classifier import QualityClassifier

ROWS_A_GROUP = 8192


@dataclass(frozen=True)
class Task:
    """One shard to filter: where it lies, its number, where the results go."""

    shard: Path
    number: int
    output: Path
    config: FilterConfig
    classifier: Path | None = None
    templates: tuple[Path, ...] = ()


def attributes_name(number: int) -> str:
    """File name of the attributes of shard `number`: `attributes-00000.parquet`."""
    return f"attributes-{number:05d}.parquet"


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


@cache
def _classifier(path: Path) -> QualityClassifier:
    return QualityClassifier(path)


def filter_shard(task: Task) -> dict[str, Any]:
    """Write the kept documents and the attributes of one shard.

    Returns counts: documents in and out, dropped by reason, characters in and out, documents and lines C4 edited.

    Raises:
        IntegrityError: the shard is damaged.
        InputError: the language model is missing, or the classifier is of another kind.
    """
    identifier = _identifier() if task.config.language.enabled else None
    classifier = _classifier(task.classifier) if task.classifier is not None else None
    templates = load_templates(task.templates)
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    with _attributes(task.output / attributes_name(task.number)) as attributes:

        def kept() -> Iterator[Document]:
            for document in read_documents(task.shard):
                text, site_lines = remove_templates(document, templates) if templates else (document.text, 0)
                verdict = judge(replace(document, text=text), task.config, identifier, classifier)
                if templates:
                    verdict.values["sites.lines_removed"] = site_lines
                attributes.add(document.id, verdict)
                counts["documents_in"] += 1
                counts["characters_in"] += len(document.text)
                if verdict.reason is not None:
                    dropped[verdict.reason] += 1
                    continue
                counts["documents_out"] += 1
                counts["characters_out"] += len(verdict.text)
                counts["documents_edited"] += verdict.text != document.text
                counts["lines_removed"] += int(verdict.values.get("c4.lines_removed", 0))
                counts["site_lines_removed"] += site_lines
                yield _marked(document, verdict)

        write_documents(task.output / shard_name(task.number), kept())
    return {**counts, "dropped": dict(sorted(dropped.items()))}


def _marked(document: Document, verdict: Verdict) -> Document:
    """The document as it goes on: cleaned text, and its language where that was judged to be natural language."""
    language = document.language if verdict.kind == "code" else verdict.language or document.language
    return replace(document, text=verdict.text, language=language)


class _Rows:
    """Collects one row a document, in order, and writes them group by group."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._rows: list[dict[str, Any]] = []

    def add(self, identifier: str, verdict: Verdict) -> None:
        row: dict[str, Any] = {
            "id": identifier,
            "kind": verdict.kind,
            "language": verdict.language,
            "kept": verdict.reason is None,
            "reason": verdict.reason,
        }
        self._rows.append(row | verdict.values)
        if len(self._rows) >= ROWS_A_GROUP:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._writer.schema))
        self._rows = []


@contextmanager
def _attributes(path: Path) -> Iterator[_Rows]:
    """The attributes file of a shard: id, kind, language, decision, reason and every value that may be measured."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [pa.field(name, pa.string()) for name in ("id", "kind", "language")]
    decision = [pa.field("kept", pa.bool_()), pa.field("reason", pa.string())]
    values = [pa.field(name, pa.float64()) for name in value_names()]
    schema = pa.schema([*texts, *decision, *values])
    with atomic_path(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        rows = _Rows(writer)
        yield rows
        rows.flush()
