"""Configurations of the two stages that collect."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from longcat.pipeline.config import RUNTIME, StageConfig

PageKind = Literal["stdlib", "package", "description", "html"]

# Importing these has side effects: windows, browsers, network, output, tests, changes of the interpreter.
SKIPPED_MODULES = (
    "__main__", "*.__main__", "antigravity", "this", "idlelib", "idlelib.*", "turtle", "turtledemo", "turtledemo.*",
    "tkinter", "tkinter.*", "lib2to3", "lib2to3.*", "distutils", "distutils.*", "ensurepip", "ensurepip.*",
    "test", "test.*", "*.test", "*.test.*", "*.tests", "*.tests.*", "*.testing", "*.testing.*", "*.test_*", "*_test",
    "conftest", "*.conftest", "setup", "*.setup", "*.benchmarks*", "*.examples*", "_*", "*._*",
)  # fmt: skip
# Slow to import (seconds per page), or part of this project.
SKIPPED_PACKAGES = ("longcat-cli", "nvidia-*", "torch", "torchvision", "triton", "transformers", "megatron-core")


class LocalConfig(StageConfig):
    """Configuration of `data.collect.local`."""

    limit: int | None = Field(None, ge=1, description="maximum number of pages to try; null: all")
    kinds: tuple[PageKind, ...] = Field(
        ("stdlib", "package", "description", "html"),
        min_length=1,
        description="pydoc pages of the standard library and of packages, descriptions, HTML documents",
    )
    html_folders: tuple[str, ...] = Field(("/usr/share/doc",), description="folders searched for HTML documents")
    pages_per_package: int = Field(40, ge=1, description="maximum pydoc pages per distribution")
    packages: tuple[str, ...] = Field(("*",), description="patterns of distributions to include, e.g. numpy or py*")
    skip_packages: tuple[str, ...] = Field(SKIPPED_PACKAGES, description="patterns of distributions to exclude")
    skip_modules: tuple[str, ...] = Field(SKIPPED_MODULES, description="patterns of modules that are never imported")
    cpu_seconds: int = Field(20, ge=1, description="CPU time limit to import and render one module, seconds")
    max_page_bytes: int = Field(4 << 20, ge=1024, description="maximum page size, bytes")
    pages_per_file: int = Field(100, ge=1, description="pages per WARC file, which is also the unit of resuming")


class UrlsConfig(StageConfig):
    """Configuration of `data.collect.urls`."""

    url_file: str = Field(description="text file with one http(s) URL per line; empty lines and # comments are skipped")
    snapshot: str = Field("", description="any text, e.g. a date; a new value fetches the same list again")
    user_agent: str = Field("longcat/0.1 (research crawler)", description="user agent of the crawler", min_length=1)
    robots: bool = Field(True, description="honour robots.txt (RFC 9309)")
    allow_private: bool = Field(False, description="fetch from private, loopback and link-local addresses too")
    delay_seconds: float = Field(
        1.0, ge=0, description="pause between requests to one host, seconds", json_schema_extra=RUNTIME
    )
    hosts_at_once: int = Field(
        8, ge=1, le=256, description="number of hosts fetched concurrently", json_schema_extra=RUNTIME
    )
    connect_seconds: float = Field(10.0, gt=0, description="connect timeout, seconds")
    read_seconds: float = Field(20.0, gt=0, description="read timeout, seconds")
    total_seconds: float = Field(60.0, gt=0, description="total time limit per page, including redirects, seconds")
    max_page_bytes: int = Field(8 << 20, ge=1024, description="maximum page size, bytes")
    max_redirects: int = Field(5, ge=0, le=20, description="maximum redirects per page")
    max_urls: int = Field(1_000_000, ge=1, description="maximum number of URLs")
    pages_per_file: int = Field(1000, ge=1, description="pages per WARC file")
