"""Ranges of a file on a web server, with every wait, size and redirect bounded."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

import httpcore

from longcat.pipeline.errors import InputError
from longcat.pipeline.network import GuardedBackend, PrivateAddressError, UnknownHostError
from longcat.pipeline.urls import BadUrlError, WebUrl, web_url

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30.0
REQUEST_SECONDS = 300.0
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504)
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


class PassingError(Exception):
    """A transient failure."""


class WebSource:
    """File on a server that supports range requests, as object stores and static servers do.

    At most five redirects are followed; never from https to http, and to another host or port only if all its addresses
    are public. No credentials are sent.
    """

    def __init__(self, url: str) -> None:
        """Raises InputError if the URL cannot be used."""
        self.url = url
        self._first = web_url(url)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)
        self._extensions = {"timeout": timeouts}
        self._edge = GuardedBackend(_Named(self._first))
        self._pool = httpcore.ConnectionPool(network_backend=self._edge, keepalive_expiry=30)

    def describe(self) -> tuple[int, str]:
        """Size in bytes, and ETag or modification date as version.

        Raises:
            InputError: the file does not exist, or the server lacks range requests, or sends neither ETag nor date.
            PassingError: a retry may succeed.
        """
        status, headers, _ = self._get(0, 1)
        size = self._total(status, headers)
        version = headers.get("etag") or headers.get("last-modified")
        if not version:
            hint = "download it and pass the file"
            raise InputError(
                "the server sends neither ETag nor date, so changes cannot be detected", where=self.url, hint=hint
            )
        return size, version

    def read(self, start: int, end: int, version: str) -> bytes:
        """Bytes from `start` up to `end`.

        Raises:
            InputError: the file is no longer `version`.
            PassingError: a retry may succeed.
        """
        status, headers, body = self._get(start, end)
        self._total(status, headers)
        if (headers.get("etag") or headers.get("last-modified")) != version:
            raise InputError("the file changed while it was read", where=self.url, hint="run the command again")
        match = CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if not match or match[1] is None or int(match[1]) != start or len(body) != end - start:
            raise PassingError(f"{len(body)} bytes received, {end - start} requested")
        return body

    def close(self) -> None:
        self._pool.close()

    def _total(self, status: int, headers: dict[str, str]) -> int:
        if status in (206, 416) and (match := CONTENT_RANGE.fullmatch(headers.get("content-range", ""))):
            return int(match[3])
        if status in PASSING:
            raise PassingError(f"HTTP status {status}")
        if status == 200:
            hint = "download it and pass the file"
            raise InputError("the server does not answer range requests", where=self.url, hint=hint)
        raise InputError(f"cannot be read: HTTP status {status}", where=self.url)

    def _get(self, start: int, end: int) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and at most `end - start` bytes of the answer, redirects followed."""
        url = self._first
        sent = [("Range", f"bytes={start}-{end - 1}"), ("Accept-Encoding", "identity"), ("User-Agent", "longcat")]
        self._edge.deadline = time.monotonic() + REQUEST_SECONDS
        try:
            for _ in range(MAX_REDIRECTS + 1):
                with self._pool.stream("GET", url.text, headers=sent, extensions=self._extensions) as response:
                    headers = _headers(response.headers)
                    if response.status in REDIRECTS and "location" in headers:
                        url = _next(url, headers["location"], self.url)
                        continue
                    body = _body(response, end - start) if response.status == 206 else b""
                    return response.status, headers, body
        except PrivateAddressError:
            led = "the host changed: it is" if url is self._first else "a redirect leads to"
            raise InputError(f"{led} {url.host}, which is not a public address", where=self.url) from None
        except UnknownHostError:
            raise PassingError(f"the host {url.host} is not known") from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise PassingError(f"{type(error).__name__} {error}".strip()) from None
        except httpcore.UnsupportedProtocol as error:
            raise InputError(f"cannot be read: {error}", where=url.text) from None
        raise InputError(f"more than {MAX_REDIRECTS} redirects", where=self.url)


def _headers(given: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in given}


def _next(url: WebUrl, location: str, first: str) -> WebUrl:
    try:
        target = url.join(location)
    except BadUrlError as error:
        raise InputError(f"a redirect to {error.where} is not followed: {error.reason}", where=first) from None
    if (url.scheme, target.scheme) == ("https", "http"):
        raise InputError("a redirect to http is not followed", where=first)
    return target


def _body(response: Any, limit: int) -> bytes:
    body = bytearray()
    for piece in response.iter_stream():
        body += piece
        if len(body) > limit:
            raise PassingError(f"more than the {limit} bytes requested")
    return bytes(body)


class _Named:
    """Allows connections to public addresses, and to others only at the host and port that the user named.

    A named host whose addresses were public at first is restricted to public ones, so that its owner cannot redirect it
    to this network later.
    """

    def __init__(self, named: WebUrl) -> None:
        self._named = (named.host, named.port)
        self._closed: bool | None = None

    def __call__(self, host: str, port: int, public: bool) -> bool:
        if (host, port) != self._named:
            return public
        if self._closed is None:
            self._closed = not public
        return public or self._closed
