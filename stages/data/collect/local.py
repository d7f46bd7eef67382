"""Stage `data.collect.local`: a crawl of the documentation that every machine has, with no network."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.stage import Context, Result, stage

PageKind = Literal["stdlib", "package", "description", "html"]

# Importing these opens windows, browsers or networks, prints, runs tests, or changes the interpreter.
SKIPPED_MODULES = (
    "__main__", "*.__main__", "antigravity", "this", "idlelib", "idlelib.*", "turtle", "turtledemo", "turtledemo.*",
    "tkinter", "tkinter.*", "lib2to3", "lib2to3.*", "distutils", "distutils.*", "ensurepip", "ensurepip.*",
    "test", "test.*", "*.test", "*.test.*", "*.tests", "*.tests.*", "*.testing", "*.testing.*", "*.test_*", "*_test",
    "conftest", "*.conftest", "setup", "*.setup", "*.benchmarks*", "*.examples*", "_*", "*._*",
)  # fmt: skip
# Their import alone takes seconds a page, or they are this project.
SKIPPED_PACKAGES = ("longcat-cli", "nvidia-*", "torch", "torchvision", "triton", "transformers", "megatron-core")


class LocalConfig(StageConfig):
    """Configuration of `data.collect.local`."""

    limit: int | None = Field(None, ge=1, description="pages to try; none: all that are found")
    kinds: tuple[PageKind, ...] = Field(
        ("stdlib", "package", "description", "html"),
        min_length=1,
        description="pydoc pages of the standard library and of packages, descriptions, HTML documents",
    )
    html_folders: tuple[str, ...] = Field(("/usr/share/doc",), description="folders searched for HTML documents")
    pages_per_package: int = Field(
        40, ge=1, description="pydoc pages of one distribution, so that none fills the crawl"
    )
    packages: tuple[str, ...] = Field(("*",), description="patterns of distributions to take, e.g. numpy or py*")
    skip_packages: tuple[str, ...] = Field(SKIPPED_PACKAGES, description="patterns of distributions to leave out")
    skip_modules: tuple[str, ...] = Field(SKIPPED_MODULES, description="patterns of modules that are never imported")
    cpu_seconds: int = Field(20, ge=1, description="processor time one module may take to import and render, seconds")
    max_page_bytes: int = Field(4 << 20, ge=1024, description="largest page, bytes")
    pages_per_file: int = Field(100, ge=1, description="pages in one WARC file, which is also the unit of resume")


def _sources(config: LocalConfig) -> dict[str, str]:
    from longcat.stages.data.collect.candidates import machine_fingerprint

    return machine_fingerprint(config.html_folders)


@stage("data.collect.local", revision=2, inputs={}, output="crawl", sources=_sources)
def collect_local(context: Context[LocalConfig]) -> Result:
    """Make a WARC crawl of what every machine has; needs no network.

    Pages are what `pydoc` renders for the standard library and the installed packages, the descriptions of installed
    distributions, and HTML below the system's documentation folder. The four kinds take turns, each in an order given
    by the hash of its URLs, so that a limit takes an even sample.
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
