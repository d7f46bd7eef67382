"""What `data.extract` reads and how much of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from longcat.pipeline.config import StageConfig

Format = Literal["warc", "html", "jsonl", "parquet", "text", "markdown", "rst", "code", "notebook"]


class ExtractConfig(StageConfig):
    """Configuration of `data.extract`."""

    input: tuple[str, ...] = Field(
        (), description="Files, folders or glob patterns to read, besides or without a crawl."
    )
    format: Literal["auto", Format] = Field(
        "auto", description="Format of all inputs; auto tells it from each file's name."
    )
    formats: tuple[Format, ...] = Field(
        ("warc", "html", "jsonl", "parquet", "text", "markdown", "rst", "code", "notebook"),
        description="Formats that are read; files of a folder or pattern in other formats are skipped.",
    )
    text_field: str = Field("text", description="Field of JSON lines and column of Parquet that holds the text.")
    id_field: str = Field("id", description="Field or column with an id, kept as metadata.original_id where present.")
    url_field: str = Field("url", description="Field or column with the URL, kept where present.")
    max_record_bytes: int = Field(
        16 << 20, ge=1024, le=1 << 30, description="Largest page, line or file, in bytes after decompression."
    )
    max_expansion: float = Field(
        200.0, ge=1, description="Most bytes out of one compressed byte, over a whole file, beyond the first 64 MiB."
    )
    extractor: Literal["longcat", "resiliparse", "trafilatura"] = Field(
        "longcat", description="What finds the main content of HTML pages; trafilatura is installed apart."
    )
    max_page_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Processor seconds one HTML page may take: then plain text is tried, then it is dropped.",
    )
    notebook_output_chars: int = Field(
        2000, ge=0, description="Most characters of plain output that are kept of a notebook's cell; 0: none."
    )
    min_text_chars: int = Field(1, ge=1, description="Fewest characters of text a document must have.")
    shard_bytes: int = Field(
        64 << 20, ge=1, description="Bytes of small files (HTML, text, code) that go into one shard together."
    )
