"""Configuration of `data.extract`."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from longcat.pipeline.config import StageConfig

Kind = Literal["text", "html", "markdown", "rst", "code", "notebook"]
Comments = Literal["auto", "keep", "drop", "separate"]
Format = Literal[
    "warc",
    "html",
    "jsonl",
    "parquet",
    "text",
    "markdown",
    "rst",
    "code",
    "notebook",
    "csv",
    "tsv",
    "arc",
    "wacz",
    "pdf",
]


class ExtractConfig(StageConfig):
    """Configuration of `data.extract`."""

    input: tuple[str, ...] = Field((), description="Files, folders or glob patterns to read, with or without a crawl.")
    format: Literal["auto", Format] = Field(
        "auto", description="Format of all inputs; auto detects it from file names."
    )
    formats: tuple[Format, ...] = Field(
        get_args(Format),
        description="Formats to read; files of a folder or pattern in other formats are skipped.",
    )
    text_field: str = Field("text", description="Text field of JSON lines and text column of Parquet.")
    id_field: str = Field("id", description="Field or column with an id, kept as metadata.original_id if present.")
    url_field: str = Field("url", description="Field or column with the URL, kept if present.")
    field_kind: Kind = Field("text", description="What the text field holds: plain text, or e.g. HTML to extract from.")
    metadata_fields: tuple[str, ...] = Field(
        ("*",), description="Names or patterns of other fields and columns to keep as metadata."
    )
    max_record_bytes: int = Field(
        16 << 20, ge=1024, le=1 << 30, description="Maximum size of a page, line or file, in bytes after decompression."
    )
    max_expansion: float = Field(
        200.0,
        ge=1,
        description="Maximum expansion per compressed byte, beyond the first 64 MiB of a file or of its part.",
    )
    extractor: Literal["longcat", "resiliparse", "trafilatura"] = Field(
        "longcat", description="Main content extractor for HTML pages; trafilatura is installed separately."
    )
    comments: Comments = Field(
        "auto",
        description="Reader comments of HTML pages: keep, drop, separate (as metadata.comments), or auto: "
        "dropped except on forum pages.",
    )
    max_page_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="CPU seconds per HTML page: after that plain text is tried, then it is dropped.",
    )
    notebook_output_chars: int = Field(
        2000, ge=0, description="Maximum characters of plain output kept per notebook cell; 0: none."
    )
    min_text_chars: int = Field(1, ge=1, description="Minimum characters of text per document.")
    shard_bytes: int = Field(
        32 << 20,
        ge=1,
        description="Bytes per shard; of lines and rows 4 times as many, of compressed files an eighth.",
    )
