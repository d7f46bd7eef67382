"""One input file to its records, whatever its format."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator
from email.message import Message
from typing import BinaryIO

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import open_input
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import looks_binary
from longcat.stages.data.extract.http import parse_response
from longcat.stages.data.extract.inputs import InputFile
from longcat.stages.data.extract.kinds import compression_of, kind_of_content_type, programming_language
from longcat.stages.data.extract.parquet import read_parquet
from longcat.stages.data.extract.records import Problem, Record, Rejected
from longcat.stages.data.extract.streams import Damage, open_source
from longcat.stages.data.extract.tabular import read_json_lines
from longcat.stages.data.extract.warc import DOCUMENT_TYPES, VERSION_PREFIX, WarcRecord, read_warc
from longcat.stages.data.extract.window import Window

SNIFFED_KINDS = {"text/html": "html", "application/xhtml+xml": "html", "text/plain": "text"}


def read_file(file: InputFile, config: ExtractConfig, tally: Counter[str]) -> Iterator[Record | Problem]:
    """Every record of `file` in order, with problems where records cannot be used.

    WARC records of types that hold no document are only counted, as `other_records` in `tally`.

    Raises:
        InputError: the file lacks the column that the configuration names, is gone, or may not be read.
        MachineError: it could not be read, twice; never taken for damage of its content.
    """
    try:
        with open_input(file.path) as stream:
            if file.format == "parquet":
                yield from read_parquet(stream, str(file.path), config)
            else:
                yield from _read_stream(stream, file, config, tally)
    except OSError as error:
        hint = "let it lie where it is while the command runs, and run again"
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = "make it readable, or leave it out"
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(file.path), hint=hint) from None


def _read_stream(
    stream: BinaryIO, file: InputFile, config: ExtractConfig, tally: Counter[str]
) -> Iterator[Record | Problem]:
    compression = compression_of(file.path.name, stream.read(8))
    stream.seek(0)
    prefix = VERSION_PREFIX if file.format == "warc" else b""
    window = Window(open_source(stream, compression, config.max_expansion, prefix))
    if file.format == "warc":
        yield from _read_crawl(window, config, tally)
    elif file.format == "jsonl":
        yield from read_json_lines(window, config)
    else:
        yield _read_whole(window, file, config)


def _read_whole(window: Window, file: InputFile, config: ExtractConfig) -> Record | Problem:
    """A file that is one record: a page, a text, a source file."""
    place = {"offset": 0}
    limit = config.max_record_bytes
    try:
        content = window.take(limit + 1)
    except Damage as damage:
        return Problem(damage.reason, damage.detail, {"offset": damage.offset})
    if len(content) > limit:
        return Problem("too_large", f"more than {limit} bytes", place)
    if looks_binary(content):
        return Problem("binary", "the content is not text", place)
    metadata: dict[str, str] = {}
    if file.format == "code" and (language := programming_language(file.path.name)):
        metadata["programming_language"] = language
    return Record("file", file.format, content, place, metadata=metadata)


def _read_crawl(window: Window, config: ExtractConfig, tally: Counter[str]) -> Iterator[Record | Problem]:
    seen: set[str] = set()
    for item in read_warc(window, config.max_record_bytes):
        if isinstance(item, Problem):
            yield item
        elif not item.type:
            yield _problem(item, "bad_warc_header", "the record has no WARC-Type")
        elif item.type not in DOCUMENT_TYPES:
            tally["other_records"] += 1
        elif item.id is not None and item.id in seen:
            yield _problem(item, "duplicate_record", "a record with this id came before")
        else:
            if item.id is not None:
                seen.add(item.id)
            try:
                yield _from_warc(item, config)
            except Rejected as rejected:
                yield _problem(item, rejected.reason, rejected.detail)


def _problem(record: WarcRecord, reason: str, detail: str) -> Problem:
    return Problem(reason, detail, {"offset": record.offset}, record.id, record.url)


def _from_warc(record: WarcRecord, config: ExtractConfig) -> Record:
    """The document in a record of type response, resource or conversion.

    Raises:
        Rejected: an HTTP failure, a content type without text, or binary content.
    """
    content_type, body = record.headers.get("content-type", ""), record.content
    if record.type == "response" and content_type.lower().startswith("application/http"):
        response = parse_response(record.content, config.max_record_bytes)
        if response.status != 200:
            raise Rejected("http_status", str(response.status))
        content_type, body = response.headers.get("content-type", ""), response.body
    if not body:
        raise Rejected("no_text", "the body is empty")
    # The kind comes first: where it is known that there is no text, that tells more than binary bytes do.
    kind, charset = _kind_and_charset(content_type, body)
    if looks_binary(body):
        raise Rejected("binary", f"{content_type[:80] or 'no content type'}, but the content is not text")
    metadata = {"warc_record_id": record.id, "warc_date": record.headers.get("warc-date")}
    return Record(
        record.id or f"offset:{record.offset}",
        kind,
        body,
        {"offset": record.offset},
        url=record.url,
        charset=charset,
        metadata={name: value for name, value in metadata.items() if value},
    )


def _kind_and_charset(content_type: str, body: bytes) -> tuple[str, str | None]:
    if not content_type.strip():
        from resiliparse.parse.encoding import detect_mime

        sniffed = detect_mime(body)
        if sniffed not in SNIFFED_KINDS:
            raise Rejected("content_type", f"none stated, looks like {sniffed}")
        return SNIFFED_KINDS[sniffed], None
    parameters = Message()
    parameters["content-type"] = content_type[:200]
    kind = kind_of_content_type(content_type.partition(";")[0])
    if kind is None:
        raise Rejected("content_type", content_type[:80])
    charset = parameters.get_param("charset")
    return kind, charset if isinstance(charset, str) else None
