"""Crawls: WARC files, whose records hold documents of other formats."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from email.message import Message
from typing import BinaryIO, ClassVar

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import looks_binary
from longcat.stages.data.extract.formats.base import Format
from longcat.stages.data.extract.http import parse_response
from longcat.stages.data.extract.not_page import SNIFFED_BYTES, reason_of_content, reason_of_type
from longcat.stages.data.extract.opening import open_buffer, open_inside
from longcat.stages.data.extract.parts import Extent, Part, Start
from longcat.stages.data.extract.records import Problem, Record, Rejected
from longcat.stages.data.extract.source_buffer import SourceBuffer
from longcat.stages.data.extract.warc import DOCUMENT_TYPES, RECORD_START, VERSION_PREFIX, WarcRecord, read_warc

XML_TYPES = ("text/xml", "application/xml")
XHTML = re.compile(rb"<html[\s>]")
SNIFFED = ("html", "text")  # possible kinds of a record without a content type


class Warc(Format):
    """Records of a crawl; other record types are only counted, as `other_records`."""

    name = "warc"
    suffixes: ClassVar[tuple[str, ...]] = (".warc", ".wet")
    weight = 1.0
    splits = True
    prefix: ClassVar[bytes] = VERSION_PREFIX
    """First bytes of a record, by which a damaged gzip member is told from others."""
    next_record: ClassVar[re.Pattern[bytes]] = RECORD_START
    """A newline before the first line of a record."""

    def __init__(self, inner: Sequence[Format]) -> None:
        """`inner`: possible formats of its records."""
        self._kinds = {content_type: form.name for form in inner for content_type in form.content_types}

    def read(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, tally: Counter[str]
    ) -> Iterator[Record | Problem]:
        window = open_buffer(stream, part.file, config, self.prefix, part.start)
        yield from self.read_records(window, config, tally, set(part.repeated), Extent(part))

    def index(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, cut_bytes: int, *, exact: bool
    ) -> tuple[Start | None, Extent]:
        extent = Extent(part, cut_bytes)
        if exact:
            window, first = open_buffer(stream, part.file, config, self.prefix, part.start), part.start
        else:
            window, found = open_inside(stream, part, config, self.prefix, self.next_record)
            if found is None:
                return None, extent
            first = found
        for item in self.archived(window, config, extent):
            if isinstance(item, WarcRecord) and item.type in DOCUMENT_TYPES and item.id is not None:
                extent.ids.append(digest_of(item.id))
        return first, extent

    def read_records(
        self, window: SourceBuffer, config: ExtractConfig, tally: Counter[str], seen: set[bytes], extent: Extent
    ) -> Iterator[Record | Problem]:
        """Yield the records of a part of one crawl file; `seen` are digests of the record ids so far."""
        for item in self.archived(window, config, extent):
            if isinstance(item, Problem):
                yield item
            elif not item.type:
                yield _problem(item, "bad_warc_header", "the record has no WARC-Type")
            elif item.type not in DOCUMENT_TYPES:
                tally["other_records"] += 1
            elif item.id is not None and digest_of(item.id) in seen:
                yield _problem(item, "duplicate_record", "duplicate record id")
            else:
                if item.id is not None:
                    seen.add(digest_of(item.id))
                try:
                    made = self._record(item, config)
                except Rejected as rejected:
                    yield _problem(item, rejected.reason, rejected.detail)
                    continue
                tally["truncated_bodies"] += "http_truncated" in made.metadata
                yield made

    def archived(self, window: SourceBuffer, config: ExtractConfig, extent: Extent) -> Iterator[WarcRecord | Problem]:
        """Records of all types."""
        return read_warc(window, config.max_record_bytes, extent)

    def _record(self, record: WarcRecord, config: ExtractConfig) -> Record:
        """Document of a record of type response, resource or conversion.

        Raises:
            Rejected: an HTTP failure, a content type without text, or binary content.
        """
        content_type, body = record.headers.get("content-type", ""), record.content
        truncated = False
        if record.type == "response" and content_type.lower().startswith("application/http"):
            response = parse_response(record.content, config.max_record_bytes)
            if response.status != 200:
                raise Rejected("http_status", str(response.status))
            content_type, body, truncated = response.headers.get("content-type", ""), response.body, response.truncated
        if not body:
            raise Rejected("no_text", "the body is empty")
        # Check the kind first: a known non-text type is more informative than binary bytes.
        kind, charset = self._kind_and_charset(content_type, body)
        if record.type != "conversion" and kind in SNIFFED and (reason := reason_of_content(record.url, body)):
            raise Rejected(reason, f"{content_type[:80] or 'no content type'}, but by its URL or beginning no page")
        if looks_binary(body):
            raise Rejected("binary", f"{content_type[:80] or 'no content type'}, but the content is not text")
        metadata = {
            "warc_record_id": record.id,
            "warc_date": record.headers.get("warc-date"),
            "warc_truncated": record.headers.get("warc-truncated"),
            "http_truncated": truncated,
        }
        return Record(
            record.id or _key_of(record.start),
            kind,
            body,
            {"offset": record.offset},
            url=record.url,
            charset=charset,
            metadata={name: value for name, value in metadata.items() if value},
        )

    def _kind_and_charset(self, content_type: str, body: bytes) -> tuple[str, str | None]:
        if not content_type.strip():
            from resiliparse.parse.encoding import detect_mime

            sniffed = detect_mime(body)
            kind = self._kinds.get(sniffed)
            if kind not in SNIFFED:
                raise Rejected(reason_of_content(None, body) or "content_type", f"none stated, looks like {sniffed}")
            return kind, None
        parameters = Message()
        parameters["content-type"] = content_type[:200]
        media_type = content_type.partition(";")[0].strip().lower()
        kind = self._kinds.get(media_type)
        if kind is None and media_type in XML_TYPES:
            kind = "html" if XHTML.search(body, 0, SNIFFED_BYTES) else None
        if kind is None:
            reason = reason_of_type(media_type) or (media_type in XML_TYPES and reason_of_content(None, body))
            raise Rejected(reason or "content_type", content_type[:80])
        charset = parameters.get_param("charset")
        return kind, charset if isinstance(charset, str) else None


def _key_of(start: Start) -> str:
    """Key of a record without an id; all records of a compressed member have its offset."""
    return f"offset:{start.offset}+{start.skip}" if start.skip else f"offset:{start.offset}"


def digest_of(record_id: str) -> bytes:
    """16 bytes that stand for a record id."""
    return hashlib.blake2b(record_id.encode(errors="surrogatepass"), digest_size=16).digest()


def _problem(record: WarcRecord, reason: str, detail: str) -> Problem:
    return Problem(reason, detail, {"offset": record.offset}, record.id, record.url)
