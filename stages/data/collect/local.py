"""Stage `data.collect.local`: a crawl of locally installed documentation, without network."""

from __future__ import annotations

from collections import Counter
from typing import Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.collect.config import LocalConfig


def _sources(config: LocalConfig) -> dict[str, str]:
    from longcat.stages.data.collect.candidates import machine_fingerprint

    return machine_fingerprint(config.html_folders)


@stage("data.collect.local", revision=2, inputs={}, output="crawl", sources=_sources)
def collect_local(context: Context[LocalConfig]) -> Result:
    """Make a WARC crawl of locally installed documentation; needs no network.

    Pages are rendered by `pydoc` for the standard library and the installed packages, the descriptions of installed
    distributions, and HTML below the system's documentation folder. The four kinds alternate, each ordered by the hash
    of its URLs, so that a limit gives an even sample.
    """
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.collect.candidates import find_candidates
    from longcat.stages.data.collect.crawl_file import CrawlTask, failures_file, write_crawl_file

    config = context.config
    candidates = find_candidates(config)
    if not candidates:
        raise InputError("there is nothing to collect", hint="widen kinds, packages or html_folders")
    size = config.pages_per_file
    tasks = [
        CrawlTask(
            path=str(context.output / f"crawl-{number:05d}.warc.gz"),
            candidates=tuple(candidates[start : start + size]),
            cpu_seconds=config.cpu_seconds,
            max_page_bytes=config.max_page_bytes,
        )
        for number, start in enumerate(range(0, len(candidates), size))
    ]
    results = context.map_shards(write_crawl_file, tasks, description="collecting")
    failures = [failure for result in results for failure in result["failures"]]
    failures_file(context.output, failures)
    return _result(len(candidates), results, failures)


def _result(tried: int, results: list[dict[str, Any]], failures: list[dict[str, str]]) -> Result:
    dropped = Counter(failure["reason"] for failure in failures)
    kinds: Counter[str] = Counter()
    for result in results:
        kinds.update(result["kinds"])
    return Result(
        counts={
            "documents_in": tried,
            "documents_out": sum(result["pages"] for result in results),
            "dropped": dict(sorted(dropped.items())),
            "kinds": dict(sorted(kinds.items())),
            "bytes": sum(result["bytes"] for result in results),
        }
    )
