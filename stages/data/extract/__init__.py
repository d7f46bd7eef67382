"""Stage `data.extract`: crawls, pages, lines and rows, text, code and PDF to documents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from longcat.pipeline.errors import InputError, UsageError
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.standard_input import NAME as STANDARD_INPUT

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput
    from longcat.stages.data.extract.parts import Part
    from longcat.stages.data.extract.records import InputFile

# Maximum number of extensions of skipped files that are named.
LISTED_ENDINGS = 12


def _sources(config: ExtractConfig) -> dict[str, str]:
    """Digests of the inputs, and versions of optional libraries for them, so that one installed later is used."""
    from longcat.pipeline.sources import fingerprint_paths
    from longcat.stages.data.extract.inputs import expand, libraries

    given = expand(config.input)
    digests = fingerprint_paths(item.path for item in given)
    return {item.name: digests[str(item.path)] for item in given} | libraries(config, given)


def _check(config: ExtractConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    if config.extractor == "trafilatura" and find_spec("trafilatura") is None:
        raise UsageError("the extractor trafilatura is not installed", hint="pip install trafilatura lxml_html_clean")
    if not inputs.get("crawl") and not config.input:
        raise UsageError("no input", hint="pass a PATH or --crawl NAME")
    if STANDARD_INPUT in config.input and config.format == "auto":
        raise UsageError("standard input has no name to tell its format by", hint="pass --format")
    return {}


@stage("data.extract", revision=7, inputs={"crawl": "crawl?"}, output="documents", sources=_sources, check=_check)
def extract_documents(context: Context[ExtractConfig]) -> Result:
    """Convert a crawl and files of many formats to documents; failures are listed in problems.jsonl.

    Reads the formats of `formats.registry`, plain or compressed. Damage affects only the records it is in. Large files
    are read in parts at record boundaries, small ones are joined into shards.

    Raises:
        UsageError: neither a crawl nor an input was given, or the extractor is not installed.
        InputError: an input is missing, of unknown format or has no records.
    """
    from longcat.stages.data.extract.inputs import crawl_files, list_inputs
    from longcat.stages.data.extract.problems import join_problems
    from longcat.stages.data.extract.shard import ExtractTask, extract_shard
    from longcat.stages.data.extract.split import shards

    config, crawl = context.config, context.optional("crawl")
    listing = list_inputs(config)
    files = [*(crawl_files(crawl) if crawl else ()), *listing.files]
    started = time.perf_counter()
    tasks = [
        ExtractTask(number, shard, context.output, context.work, config)
        for number, shard in enumerate(shards(_parts(context, files), config))
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
    join_problems(context.work, len(tasks), listing.skipped, context.output / "problems.jsonl")
    endings = Counter(file.ending or "no ending" for file in listing.skipped)
    if endings:
        named = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(LISTED_ENDINGS))
        named += f", {len(endings) - LISTED_ENDINGS} more kinds" if len(endings) > LISTED_ENDINGS else ""
        context.logger.warning(
            "%d files skipped: %s (named in problems.jsonl; --format reads them)", endings.total(), named
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
            "truncated_bodies": totals["truncated_bodies"],
            "characters_out": totals["characters_out"],
            "replaced_characters": totals["replaced_characters"],
        },
        performance={"documents_per_second": round(totals["documents_in"] / max(seconds, 1e-9), 1)},
    )


def _parts(context: Context[ExtractConfig], files: Sequence[InputFile]) -> list[Part]:
    """Parts of the files, in order; the records of large files are found first."""
    from longcat.stages.data.extract.split import cut, exact_parts, index_part, index_tasks

    cuts = cut(files, context.config)
    tasks = index_tasks(cuts, context.work, context.config)
    found = context.map_shards(index_part, tasks, description="indexing") if tasks else []
    return list(exact_parts(cuts, tasks, found))
