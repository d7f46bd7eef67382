"""Stage `data.collect.urls`: fetch a list of http(s) URLs into a crawl."""

from __future__ import annotations

from pydantic import Field

from longcat.pipeline.config import RUNTIME, StageConfig
from longcat.pipeline.stage import Context, Result, stage


class UrlsConfig(StageConfig):
    """Configuration of `data.collect.urls`."""

    url_file: str = Field(description="text file with one http(s) URL a line; empty lines and # comments are skipped")
    snapshot: str = Field("", description="any text, e.g. a date: a new value fetches the same list again")
    user_agent: str = Field("longcat/0.1 (research crawler)", description="how the crawler names itself", min_length=1)
    robots: bool = Field(True, description="honour robots.txt (RFC 9309)")
    allow_private: bool = Field(False, description="fetch from private, loopback and link-local addresses too")
    delay_seconds: float = Field(
        1.0, ge=0, description="pause between requests to one host, seconds", json_schema_extra=RUNTIME
    )
    hosts_at_once: int = Field(
        8, ge=1, le=256, description="hosts fetched from at the same time", json_schema_extra=RUNTIME
    )
    connect_seconds: float = Field(10.0, gt=0, description="time to connect, seconds")
    read_seconds: float = Field(20.0, gt=0, description="longest silence while a page arrives, seconds")
    total_seconds: float = Field(60.0, gt=0, description="time for one page in all, redirects included, seconds")
    max_page_bytes: int = Field(8 << 20, ge=1024, description="largest page, bytes")
    max_redirects: int = Field(5, ge=0, le=20, description="redirects followed for one page")
    max_urls: int = Field(1_000_000, ge=1, description="longest list")
    pages_per_file: int = Field(1000, ge=1, description="pages in one WARC file")


def _sources(config: UrlsConfig) -> dict[str, str]:
    from longcat.pipeline.sources import fingerprint_paths

    return fingerprint_paths([config.url_file])


@stage("data.collect.urls", revision=1, inputs={}, output="crawl", sources=_sources)
def collect_urls(context: Context[UrlsConfig]) -> Result:
    """Fetch a list of URLs into a WARC crawl.

    robots.txt is honoured, hosts are given pauses, and every hop of a redirect is checked: only http and https, and no
    address inside a private network unless that is allowed. A URL fetched before a kill is not fetched again.
    """
    from longcat.stages.data.collect.url_crawl import crawl_urls

    return crawl_urls(context)
