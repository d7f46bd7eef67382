"""Documents between stages: zstd-compressed JSON lines, one document per line (Dolma's fields)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import zstandard

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.faults import open_input
from longcat.pipeline.files import atomic_path

SUFFIX = ".jsonl.zst"
COMPRESSION_LEVEL = 3
MAX_LINE_BYTES = 256 << 20


@dataclass(slots=True)
class Document:
    """One document. `source` is the crawl or file it came from, `language` an ISO 639 code once identified."""

    id: str
    text: str
    source: str
    url: str | None = None
    language: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> bytes:
        record = {
            "id": self.id,
            "text": self.text,
            "source": self.source,
            "url": self.url,
            "language": self.language,
            "metadata": self.metadata,
        }
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def shard_name(index: int) -> str:
    """File name of shard `index`: `shard-00000.jsonl.zst`."""
    return f"shard-{index:05d}{SUFFIX}"


def document_shards(artifact: Artifact) -> list[Path]:
    """Shard paths of a documents artifact, in order."""
    return sorted(artifact.path.glob(f"*{SUFFIX}"))


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write one shard atomically and deterministically; returns the number of documents."""
    count = 0
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=True, write_content_size=False)
    with atomic_path(path) as aside, aside.open("wb") as raw, compressor.stream_writer(raw, closefd=False) as stream:
        for document in documents:
            stream.write(document.to_line())
            count += 1
    return count


def read_documents(path: Path) -> Iterator[Document]:
    """Read one shard.

    Raises:
        IntegrityError: the shard is cut off, fails its checksum, or a line is not a document; names file and line.
    """
    number = 0
    try:
        with open_input(path) as raw:
            for number, line in enumerate(_lines(raw, path), start=1):
                yield _parse(line, path, number)
    except zstandard.ZstdError as error:
        if "not enough memory" in str(error):
            raise MemoryError(str(error)) from None
        raise IntegrityError(f"not whole zstd data: {error}", where=f"{path}:{number + 1}") from None
    except FileNotFoundError:
        raise IntegrityError("the shard is missing", where=str(path)) from None


def document_batches(path: Path, documents: int, characters: int | None = None) -> Iterator[list[Document]]:
    """The documents of one shard in lists; see `in_batches`. Raises as `read_documents`."""
    return in_batches(read_documents(path), documents, characters)


def in_batches(source: Iterable[Document], documents: int, characters: int | None = None) -> Iterator[list[Document]]:
    """Documents in lists; a list ends with the document by which it reaches a limit.

    `documents` and `characters` are the limits of a list; without `characters` any number of them.
    """
    batch: list[Document] = []
    size = 0
    for document in source:
        batch.append(document)
        size += len(document.text)
        if len(batch) >= documents or (characters is not None and size >= characters):
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _lines(raw: io.BufferedReader, path: Path) -> Iterator[bytes]:
    # Otherwise a truncated frame would read like a shorter file.
    decompressor = zstandard.ZstdDecompressor().decompressobj(read_across_frames=False)
    rest = b""
    while chunk := raw.read(zstandard.DECOMPRESSION_RECOMMENDED_INPUT_SIZE):
        rest += decompressor.decompress(chunk)
        *lines, rest = rest.split(b"\n")
        yield from lines
        if len(rest) > MAX_LINE_BYTES:
            raise IntegrityError(f"a line of over {MAX_LINE_BYTES} bytes", where=str(path))
    if rest or not decompressor.eof:
        raise IntegrityError("the shard ends early", where=str(path))


def _parse(line: bytes, path: Path, number: int) -> Document:
    try:
        return Document(**orjson.loads(line))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise IntegrityError(f"not a document: {error}", where=f"{path}:{number}") from None
