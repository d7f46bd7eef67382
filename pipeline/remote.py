"""Files in object stores and on web servers, read in blocks like local files."""

from __future__ import annotations

import glob
import io
from collections.abc import Callable
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote

from longcat.pipeline.errors import InputError
from longcat.pipeline.remote_web import PassingError, WebSource
from longcat.pipeline.retry import Retry
from longcat.pipeline.urls import WEB_SCHEMES

OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs"}
BLOCK_BYTES = 4 << 20
TRIES = 4
FIRST_WAIT_SECONDS = 0.5
VERSION_KEYS = ("ETag", "etag", "generation", "crc32c", "md5Hash", "LastModified", "updated", "created", "mtime")

T = TypeVar("T")


def is_remote(name: str) -> bool:
    """Whether a name is a URL that this module reads."""
    return "://" in name and _scheme(name) in (*WEB_SCHEMES, *OBJECT_STORES)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


class RemoteFile(io.RawIOBase):
    """One version of a remote file, read in 4 MiB blocks of which one is held; connects on the first read.

    Picklable. Every failed read is an InputError, so that a broken connection is never mistaken for end of file or
    damage.
    """

    def __init__(self, url: str, size: int, version: str) -> None:
        """`version`: ETag, generation or modification date, which identifies the content."""
        super().__init__()
        self.url = url
        self.size = size
        self.version = version
        self._position = 0
        self._block = b""
        self._block_start = 0
        self._source: WebSource | ObjectSource | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFile, (self.url, self.size, self.version)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Last part of the path."""
        path = self.url.partition("://")[2]
        if _scheme(self.url) in WEB_SCHEMES:
            # Only http(s) URLs are percent-encoded and may have a query.
            path = unquote(path.partition("#")[0].partition("?")[0])
        return PurePosixPath(path).name

    def open(self, mode: str = "rb") -> RemoteFile:
        """A new reader at the start of the file."""
        if mode != "rb":
            raise ValueError(f"remote files are only read, not opened as {mode!r}")
        return RemoteFile(self.url, self.size, self.version)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; partially only at the end.

        Raises:
            InputError: the file changed, is missing, or could not be read in four tries.
        """
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self.size:
            at = self._position - self._block_start
            if not 0 <= at < len(self._block):
                self._load()
                at = self._position - self._block_start
            piece = self._block[at : at + len(view) - filled]
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        return filled

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None
        super().close()

    def _load(self) -> None:
        if self._source is None:
            self._source = open_source(self.url)
        source, start = self._source, self._position
        end = min(start + BLOCK_BYTES, self.size)
        self._block = _tried(self.url, lambda: source.read(start, end, self.version))
        self._block_start = start


class ObjectSource:
    """Object in a store supported by fsspec; credentials come from the store's usual environment."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._filesystem = _filesystem(url)
        self._checked = False

    def describe(self) -> tuple[int, str]:
        """Size in bytes and version. Raises InputError, PassingError."""
        self._filesystem.invalidate_cache()
        return _described(self.url, _asked(self.url, lambda: self._filesystem.info(self.url)))

    def read(self, start: int, end: int, version: str) -> bytes:
        """Bytes from `start` up to `end`. Raises InputError, PassingError."""
        if not self._checked:
            if self.describe()[1] != version:
                raise InputError("the file changed since it was listed", where=self.url, hint="run the command again")
            self._checked = True
        body: bytes = _asked(self.url, lambda: self._filesystem.cat_file(self.url, start=start, end=end))
        if len(body) != end - start:
            raise PassingError(f"{len(body)} bytes received, {end - start} requested")
        return body

    def close(self) -> None:
        """No-op: connections belong to the file system object, which lives as long as the process."""


def open_source(url: str) -> WebSource | ObjectSource:
    """Range reader for `url`."""
    return WebSource(url) if _scheme(url) in WEB_SCHEMES else ObjectSource(url)


def remote_files(name: str) -> list[RemoteFile]:
    """File of a URL, or files in a folder or matching a pattern of an object store, sorted.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    if _scheme(name) in WEB_SCHEMES:
        source = WebSource(name)
        try:
            return [RemoteFile(name, *_tried(name, source.describe))]
        finally:
            source.close()
    return _tried(name, lambda: _objects(name))


def _objects(name: str) -> list[RemoteFile]:
    filesystem, scheme = _filesystem(name), _scheme(name)
    filesystem.invalidate_cache()
    if glob.has_magic(name):
        found = _asked(name, lambda: filesystem.glob(name, detail=True))
        if not found:
            raise InputError("the pattern matches no file", where=name)
    else:
        info = _asked(name, lambda: filesystem.info(name))
        if info["type"] != "directory":
            return [RemoteFile(name, *_described(name, info))]
        found = _asked(name, lambda: filesystem.find(name, detail=True))
    urls = {f"{scheme}://{path.lstrip('/')}": info for path, info in found.items() if info["type"] == "file"}
    return [RemoteFile(url, *_described(url, info)) for url, info in sorted(urls.items())]


def _filesystem(url: str) -> Any:
    scheme = _scheme(url)
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError:
        needed = f'pip install "longcat-cli[{scheme}]"'
        raise InputError(f"{scheme}:// needs {OBJECT_STORES.get(scheme, 'fsspec')}", where=url, hint=needed) from None
    except Exception as error:  # store clients reject their configuration with various errors
        raise InputError(f"the store cannot be used: {error}", where=url) from None


def _described(url: str, info: dict[str, Any]) -> tuple[int, str]:
    version = next((info[key] for key in VERSION_KEYS if info.get(key)), None)
    if info.get("size") is None or version is None:
        raise InputError("the store reports no size or no version", where=url, hint="download it and pass the file")
    # A listing and a single request may format the same date or ETag differently.
    moment = version.timestamp() if isinstance(version, datetime) else version
    return int(info["size"]), str(moment).strip('"')


def _asked(url: str, request: Callable[[], T]) -> T:
    """Call the store and classify its failures."""
    try:
        return request()
    except FileNotFoundError:
        raise InputError("no such file or folder", where=url) from None
    except PermissionError as error:
        hint = "credentials are taken from the store's usual environment (AWS_*, GOOGLE_APPLICATION_CREDENTIALS)"
        raise InputError(f"access denied: {error}", where=url, hint=hint) from None
    except Exception as error:  # every client has its own exception types
        raise PassingError(f"{type(error).__name__}: {error}") from None


def _tried(url: str, request: Callable[[], T]) -> T:
    """Return the answer, with up to four tries and growing pauses."""
    retry = Retry(TRIES, FIRST_WAIT_SECONDS, growth=2)
    try:
        return retry.call(request, lambda error: isinstance(error, PassingError))
    except PassingError as error:
        hint = "run the same command again to resume from the finished shards"
        raise InputError(f"could not be read in {TRIES} tries: {error}", where=url, hint=hint) from None
