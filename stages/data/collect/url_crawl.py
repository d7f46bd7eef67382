"""Fetches a list of URLs: hosts in parallel, pages of one host sequentially, finished URLs recorded."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import told
from longcat.pipeline.files import atomic_path, atomic_write, canonical_json, read_json
from longcat.pipeline.progress import Bar
from longcat.pipeline.shards import file_record, same_files
from longcat.pipeline.stage import Context, Result
from longcat.pipeline.store import utc_now
from longcat.pipeline.urls import MAX_URL_CHARACTERS, BadUrlError, WebUrl, web_url
from longcat.stages.data.collect.config import UrlsConfig
from longcat.stages.data.collect.crawl_file import CrawledPage, CrawlWriter, failures_file
from longcat.stages.data.collect.fetch import Fetcher, NotFetchedError

MAX_LIST_BYTES = 1 << 30
# Retriable, so after a stop these count as not yet fetched.
PASSING_REASONS = ("dns", "network", "timeout", "robots", "http_status")


def read_urls(path: Path, max_urls: int) -> list[str]:
    """Unique lines of a list, in order; bytes that are not UTF-8 are escaped, so that they never match a URL.

    Raises:
        InputError: the list is too long or empty.
    """
    if path.stat().st_size > MAX_LIST_BYTES:
        raise InputError(f"larger than {MAX_LIST_BYTES} bytes", where=str(path))
    urls: dict[str, None] = {}
    with told(path), path.open(encoding="utf-8-sig", errors="backslashreplace") as stream:
        for line in stream:
            text = line.strip()
            if text and not text.startswith("#"):
                urls[text] = None
    if not urls:
        raise InputError("no URLs in the file", where=str(path), hint="expected one http(s) URL per line")
    if len(urls) > max_urls:
        raise InputError(f"{len(urls)} URLs, max_urls is {max_urls}", where=str(path))
    return list(urls)


def crawl_urls(context: Context[UrlsConfig]) -> Result:
    """Fetch missing pages, then write all pages in list order.

    Raises:
        InputError: no page could be fetched; names the reasons.
    """
    config = context.config
    urls = read_urls(Path(config.url_file), config.max_urls)
    pages = context.work / "pages"
    pages.mkdir(exist_ok=True)
    missing = [index for index in range(len(urls)) if not _is_settled(_record(pages, index))]
    with context.progress.task("fetching", total=len(urls), unit="pages") as bar:
        bar.advance(len(urls) - len(missing))
        _fetch_all(config, urls, missing, pages, bar)
    records = [read_json(_record(pages, index)) for index in range(len(urls))]
    failures = [record for record in records if "reason" in record]
    if len(failures) == len(urls):
        reasons = Counter(record["reason"] for record in failures)
        raise InputError(
            f"none of the {len(urls)} URLs could be fetched: "
            + ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())),
            where=config.url_file,
        )
    _assemble(context.output, pages, [i for i, record in enumerate(records) if "reason" not in record], config)
    failures_file(context.output, failures)
    dropped = Counter(record["reason"] for record in failures)
    return Result(
        counts={
            "documents_in": len(urls),
            "documents_out": len(urls) - len(failures),
            "dropped": dict(sorted(dropped.items())),
            "bytes": sum(record.get("bytes", 0) for record in records),
        }
    )


def _is_settled(path: Path) -> bool:
    """Whether a page was fetched and is intact, or failed permanently."""
    try:
        record = read_json(path)
        if "reason" in record:
            return record["reason"] not in PASSING_REASONS
        return same_files([record["file"]], path.parent)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False


def _record(pages: Path, index: int) -> Path:
    return pages / f"{index:08d}.json"


def _member(pages: Path, index: int) -> Path:
    return pages / f"{index:08d}.warc.gz"


def _fetch_all(config: UrlsConfig, urls: Sequence[str], missing: Sequence[int], pages: Path, bar: Bar) -> None:
    hosts = _by_host(urls, missing, pages, bar)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(max_workers=config.hosts_at_once)
    try:
        running = {pool.submit(_fetch_host, config, wanted, pages, bar, stopped) for wanted in hosts.values()}
        while running:
            done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _by_host(urls: Sequence[str], missing: Sequence[int], pages: Path, bar: Bar) -> dict[str, list[tuple[int, WebUrl]]]:
    """URLs to fetch by host; invalid lines are recorded at once."""
    hosts: dict[str, list[tuple[int, WebUrl]]] = {}
    for index in missing:
        try:
            url = web_url(urls[index])
        except BadUrlError as error:
            record = {"url": urls[index][:MAX_URL_CHARACTERS], "reason": "bad_url", "detail": error.reason}
            atomic_write(_record(pages, index), canonical_json(record))
            bar.advance()
        else:
            hosts.setdefault(url.host, []).append((index, url))
    return hosts


def _fetch_host(
    config: UrlsConfig, wanted: Sequence[tuple[int, WebUrl]], pages: Path, bar: Bar, stopped: threading.Event
) -> None:
    fetcher = Fetcher(config)
    try:
        for position, (index, url) in enumerate(wanted):
            if position and stopped.wait(fetcher.delay(url)):
                return
            if stopped.is_set():
                return
            atomic_write(_record(pages, index), canonical_json(_fetch_one(fetcher, url, _member(pages, index))))
            bar.advance()
    finally:
        fetcher.close()


def _fetch_one(fetcher: Fetcher, url: WebUrl, member: Path) -> dict[str, Any]:
    started = time.monotonic()
    try:
        response = fetcher.page(url)
    except NotFetchedError as failure:
        return {"url": url.text, "reason": failure.reason, "detail": failure.detail}
    page = CrawledPage(response.url, utc_now(), "200 OK", response.headers, response.body)
    with atomic_path(member) as aside, aside.open("wb") as stream:
        CrawlWriter(stream).write(page)
    seconds = round(time.monotonic() - started, 3)
    record = {"url": url.text, "bytes": len(response.body), "seconds": seconds}
    return {**record, "file": file_record(member, member.parent)}


def _assemble(output: Path, pages: Path, fetched: Sequence[int], config: UrlsConfig) -> None:
    """Gzip members can be concatenated, so files are joined without decompression."""
    for number, start in enumerate(range(0, len(fetched), config.pages_per_file)):
        path = output / f"crawl-{number:05d}.warc.gz"
        with atomic_path(path) as aside, aside.open("wb") as stream:
            for index in fetched[start : start + config.pages_per_file]:
                stream.write(_member(pages, index).read_bytes())
