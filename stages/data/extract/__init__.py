"""The stage `data.extract`: crawls, pages, JSON lines, Parquet, text and code to documents."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.errors import InputError, UsageError
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.extract.config import ExtractConfig

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput
    from longcat.stages.data.extract.inputs import Skipped

# Of files that are passed over, so many are named, and so many endings of names.
LISTED_FILES, LISTED_ENDINGS = 10_000, 12


def _sources(config: ExtractConfig) -> dict[str, str]:
    from longcat.pipeline.sources import fingerprint_paths
    from longcat.stages.data.extract.inputs import expand

    return fingerprint_paths(given.path for given in expand(config.input))


def _check(config: ExtractConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    if config.extractor == "trafilatura" and find_spec("trafilatura") is None:
        raise UsageError("the extractor trafilatura is not installed", hint="pip install trafilatura lxml_html_clean")
    if not inputs.get("crawl") and not config.input:
        raise UsageError("there is nothing to extract from", hint="give a PATH or --crawl NAME")
    return {}


@stage("data.extract", revision=5, inputs={"crawl": "crawl?"}, output="documents", sources=_sources, check=_check)
def extract_documents(context: Context[ExtractConfig]) -> Result:
    """Turn a crawl and files of many formats into documents; what gives none is named in problems.jsonl.

    Reads WARC, HTML, JSON lines, Parquet, text, markdown, notebooks and source code, plain or compressed. Damage costs
    the records it lies in and no others.

    Raises:
        UsageError: neither a crawl nor an input was given, or the extractor is not installed.
        InputError: an input is missing, of unknown format or holds no records.
    """
    from longcat.stages.data.extract.inputs import crawl_files, list_inputs, split
    from longcat.stages.data.extract.shard import Task, extract_shard

    config, crawl = context.config, context.optional("crawl")
    listing = list_inputs(config)
    files = [*(crawl_files(crawl) if crawl else ()), *listing.files]
    started = time.perf_counter()
    tasks = [
        Task(number, shard, context.output, context.work, config)
        for number, shard in enumerate(split(files, config.shard_bytes))
    ]
    results = context.map_shards(extract_shard, tasks, description="extracting")
    seconds = time.perf_counter() - started
    totals: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for result in results:
        dropped.update(result.pop("dropped"))
        totals.update(result)
    if not totals["documents_in"]:
        where = str(crawl.path) if crawl else ", ".join(config.input)
        raise InputError("there are no records to extract from", where=where)
    _join_problems(context.work, len(tasks), listing.skipped, context.output / "problems.jsonl")
    endings = Counter(file.ending or "no ending" for file in listing.skipped)
    if endings:
        named = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(LISTED_ENDINGS))
        named += f", {len(endings) - LISTED_ENDINGS} more kinds" if len(endings) > LISTED_ENDINGS else ""
        context.logger.warning(
            "%d files passed over: %s (named in problems.jsonl; --format reads them)", endings.total(), named
        )
    return Result(
        counts={
            "documents_in": totals["documents_in"],
            "documents_out": totals["documents_out"],
            "dropped": dict(sorted(dropped.items())),
        },
        metrics={
            "files": len(files),
            "files_skipped": len(listing.skipped),
            "skipped_by_ending": dict(sorted(endings.items())),
            "other_records": totals["other_records"],
            "characters_out": totals["characters_out"],
            "replaced_characters": totals["replaced_characters"],
        },
        performance={"documents_per_second": round(totals["documents_in"] / max(seconds, 1e-9), 1)},
    )


def _join_problems(folder: Path, shards: int, skipped: Sequence[Skipped], path: Path) -> None:
    """The problems of all shards in one file, in shard order, then the files that were passed over."""
    from longcat.pipeline.files import atomic_path, canonical_json
    from longcat.stages.data.extract.shard import problems_name

    with atomic_path(path) as aside, aside.open("wb") as joined:
        for number in range(shards):
            with (folder / problems_name(number)).open("rb") as part:
                shutil.copyfileobj(part, joined)
        for file in skipped[:LISTED_FILES]:
            joined.write(canonical_json({"file": file.source, "reason": file.reason}) + b"\n")
        if len(skipped) > LISTED_FILES:
            more = {"reason": "not_listed", "files": len(skipped) - LISTED_FILES}
            joined.write(canonical_json(more) + b"\n")
