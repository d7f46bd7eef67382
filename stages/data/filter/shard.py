"""Filtering of one shard: writes kept documents, and attributes of all documents to a second file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document, shard_name, write_documents
from longcat.pipeline.files import atomic_path
from longcat.stages.data.filter.blocklist import Blocklists
from longcat.stages.data.filter.pii import Masker
from longcat.stages.data.filter.sites import load_templates, remove_templates
from longcat.stages.data.rules.config import PII_COUNTS, FilterConfig, value_names
from longcat.stages.data.rules.judge import RuleVerdict, document_kind, judge
from longcat.stages.data.text.language import LanguageIdentifier
from longcat.stages.data.text.quality_classifier import QualityClassifier

ROWS_A_GROUP = 8192
# Name in the counts of the rules of the configuration itself.
CONFIGURED = "config"


@dataclass(frozen=True)
class FilterTask:
    """Task: one shard to filter: path, number, output paths."""

    shard: InputShard
    number: int
    output: Path
    config: FilterConfig
    classifier: Path | None = None
    templates: tuple[Path, ...] = ()
    blocklists: tuple[Path, ...] = ()


def attributes_name(number: int) -> str:
    """File name of the attributes of shard `number`: `attributes-00000.parquet`."""
    return f"attributes-{number:05d}.parquet"


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


@cache
def _classifier(path: Path) -> QualityClassifier:
    return QualityClassifier(path)


def filter_shard(task: FilterTask) -> dict[str, Any]:
    """Write the kept documents and the attributes of one shard.

    Returns counts: documents in and out, dropped by reason, by blocklist, by file of rules, characters in and out,
    documents and lines C4 edited, and replacements by masking.

    Raises:
        IntegrityError: the shard is damaged.
        InputError: the language model is missing, or the classifier is of another kind.
    """
    judged = _Judge(task)
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    with _attributes(task.output / attributes_name(task.number)) as attributes:

        def kept() -> Iterator[Document]:
            for document in task.shard.documents():
                counts["documents_in"] += 1
                counts["characters_in"] += len(document.text)
                if (verdict := judged.blocked(document, counts)) is None:
                    verdict = judged.verdict(document)
                    rules[verdict.rules or CONFIGURED] += 1
                attributes.add(document.id, verdict)
                if verdict.reason is not None:
                    dropped[verdict.reason] += 1
                    continue
                counts["documents_out"] += 1
                counts["characters_out"] += len(verdict.text)
                counts["documents_edited"] += verdict.text != document.text
                counts["lines_removed"] += int(verdict.values.get("c4.lines_removed", 0))
                counts["site_lines_removed"] += int(verdict.values.get("sites.lines_removed", 0))
                _count_masked(counts, verdict)
                yield _marked(document, verdict)

        write_documents(task.output / shard_name(task.number), kept())
    return {**counts, "dropped": dict(sorted(dropped.items())), "rules": dict(sorted(rules.items()))}


class _Judge:
    """Decides about the documents of a task."""

    def __init__(self, task: FilterTask) -> None:
        self._config = task.config
        self._identifier = _identifier() if task.config.language.enabled else None
        self._classifier = _classifier(task.classifier) if task.classifier is not None else None
        self._templates = load_templates(task.templates)
        self._blocklists = Blocklists(task.blocklists)
        self._masker = Masker(task.config.pii) if task.config.pii.enabled else None

    def blocked(self, document: Document, counts: Counter[str]) -> RuleVerdict | None:
        """Verdict if the URL is in a blocklist, counted by list."""
        found = self._blocklists.find(document.url) if self._config.blocklists else None
        if found is None:
            return None
        reason, number = found
        counts[f"blocked.{number}"] += 1
        return RuleVerdict(document_kind(document), document.text, reason=reason)

    def verdict(self, document: Document) -> RuleVerdict:
        """Verdict of the rules; the text of a kept document is masked."""
        text, site_lines = remove_templates(document, self._templates) if self._templates else (document.text, 0)
        verdict = judge(replace(document, text=text), self._config, self._identifier, self._classifier)
        if self._templates:
            verdict.values["sites.lines_removed"] = site_lines
        if self._masker is not None and verdict.reason is None:
            verdict.text, masked = self._masker.mask(verdict.text)
            verdict.values.update({f"pii.{name}": count for name, count in masked.items()})
        return verdict


def _count_masked(counts: Counter[str], verdict: RuleVerdict) -> None:
    masked = {f"pii.{name}": int(verdict.values.get(f"pii.{name}", 0)) for name in PII_COUNTS}
    counts.update(masked)
    counts["pii.documents"] += any(masked.values())


def _marked(document: Document, verdict: RuleVerdict) -> Document:
    """Output document: cleaned text, and language if natural language."""
    language = document.language if verdict.kind == "code" else verdict.language or document.language
    return replace(document, text=verdict.text, language=language)


class _Rows:
    """Collects one row per document, in order, and writes row groups."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._rows: list[dict[str, Any]] = []

    def add(self, identifier: str, verdict: RuleVerdict) -> None:
        row: dict[str, Any] = {
            "id": identifier,
            "kind": verdict.kind,
            "language": verdict.language,
            "rules": verdict.rules,
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
    """Schema of the attributes file: id, kind, language, rules, decision, reason and all measured values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [pa.field(name, pa.string()) for name in ("id", "kind", "language", "rules")]
    decision = [pa.field("kept", pa.bool_()), pa.field("reason", pa.string())]
    values = [pa.field(name, pa.float64()) for name in value_names()]
    schema = pa.schema([*texts, *decision, *values])
    with atomic_path(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        rows = _Rows(writer)
        yield rows
        rows.flush()
