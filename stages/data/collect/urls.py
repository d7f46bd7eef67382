"""Stage `data.collect.urls`: fetch a list of http(s) URLs into a crawl."""

from __future__ import annotations

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.collect.config import UrlsConfig


def _sources(config: UrlsConfig) -> dict[str, str]:
    from longcat.pipeline.sources import fingerprint_paths

    return fingerprint_paths([config.url_file])


@stage("data.collect.urls", revision=1, inputs={}, output="crawl", sources=_sources)
def collect_urls(context: Context[UrlsConfig]) -> Result:
    """Fetch a list of URLs into a WARC crawl.

    robots.txt is honoured, requests to a host are spaced, and every redirect is checked: only http and https, and no
    private addresses unless allowed. A URL fetched before a kill is not fetched again.
    """
    from longcat.stages.data.collect.url_crawl import crawl_urls

    return crawl_urls(context)
