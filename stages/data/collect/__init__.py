"""Stages `data.collect.local` and `data.collect.urls`: crawls as WARC files."""

from longcat.stages.data.collect.local import collect_local
from longcat.stages.data.collect.urls import collect_urls

__all__ = ["collect_local", "collect_urls"]
