"""Fetch one page over http(s) under all limits, or report the reason of failure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpcore
from protego import Protego

from longcat.pipeline.faults import machine_error, own_shortage, twice
from longcat.pipeline.network import GuardedBackend, PrivateAddressError, UnknownHostError
from longcat.pipeline.urls import BadUrlError, WebUrl
from longcat.stages.data.collect.config import UrlsConfig

REDIRECTS = (301, 302, 303, 307, 308)
MAX_ROBOTS_BYTES = 512 << 10  # RFC 9309 requires at least 500 KiB
MAX_CRAWL_DELAY_SECONDS = 60.0
HOP_HEADERS = ("connection", "keep-alive", "transfer-encoding", "trailer", "upgrade")


class NotFetchedError(Exception):
    """Fetch failed; `reason` is counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Response:
    """Response of a server; `headers` in order, without connection headers."""

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


class Fetcher:
    """Fetches pages; not thread-safe."""

    def __init__(self, config: UrlsConfig) -> None:
        self._config = config
        self._edge = GuardedBackend(config.allow_private)
        self._pool = httpcore.ConnectionPool(network_backend=self._edge, max_connections=4, keepalive_expiry=5)
        self._robots: dict[str, Protego | None] = {}

    def close(self) -> None:
        self._pool.close()

    def page(self, url: WebUrl) -> Response:
        """Fetch the page at a URL, following redirects.

        Raises:
            NotFetchedError: reason is one of bad_url, robots, private_address, dns, timeout, network, too_large,
                redirects or http_status.
        """
        deadline = time.monotonic() + self._config.total_seconds
        try:
            for _ in range(self._config.max_redirects + 1):
                if self._config.robots and not self._allowed(url, deadline):
                    raise NotFetchedError("robots", url.text)
                response = self._get(url.text, deadline, self._config.max_page_bytes)
                location = response.header("location")
                if response.status not in REDIRECTS or not location:
                    if response.status != 200:
                        raise NotFetchedError("http_status", str(response.status))
                    return response
                url = url.join(location)
        except BadUrlError as error:
            raise NotFetchedError("bad_url", f"{error.where}: {error.reason}") from None
        raise NotFetchedError("redirects", f"more than {self._config.max_redirects}")

    def delay(self, url: WebUrl) -> float:
        """Seconds to wait before the next request to the host of `url`."""
        robots = self._robots.get(url.origin)
        asked = robots.crawl_delay(self._config.user_agent) if robots else None
        return max(self._config.delay_seconds, min(float(asked or 0), MAX_CRAWL_DELAY_SECONDS))

    def _allowed(self, url: WebUrl, deadline: float) -> bool:
        if url.origin not in self._robots:
            self._robots[url.origin] = self._read_robots(url, deadline)
        robots = self._robots[url.origin]
        return robots is not None and bool(robots.can_fetch(url.text, self._config.user_agent))

    def _read_robots(self, site: WebUrl, deadline: float) -> Protego | None:
        """robots.txt rules of a host; None forbids everything, as RFC 9309 requires if they are unavailable."""
        url = site.join("/robots.txt")
        try:
            for _ in range(self._config.max_redirects + 1):
                response = self._get(url.text, deadline, MAX_ROBOTS_BYTES, cut=True)
                location = response.header("location")
                if response.status not in REDIRECTS or not location:
                    break
                url = url.join(location)
        except BadUrlError:
            return None
        except NotFetchedError as failure:
            if failure.reason in ("private_address", "dns"):
                raise
            return None
        if response.status >= 500:
            return None
        text = response.body.decode("utf-8", "replace") if response.status == 200 else ""
        return Protego.parse(text)

    def _get(self, url: str, deadline: float, max_bytes: int, *, cut: bool = False) -> Response:
        try:
            return twice(lambda: self._attempt(url, deadline, max_bytes, cut))
        except OSError as error:
            raise machine_error(error, f"fetching {url}") from None

    def _attempt(self, url: str, deadline: float, max_bytes: int, cut: bool) -> Response:
        """One request. Raises NotFetchedError for remote failures, OSError for local ones."""
        try:
            return self._exchange(url, deadline, max_bytes, cut)
        except PrivateAddressError:
            raise NotFetchedError("private_address", url) from None
        except UnknownHostError:
            raise NotFetchedError("dns", url) from None
        except httpcore.TimeoutException:
            raise NotFetchedError("timeout", url) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            if (shortage := own_shortage(error)) is not None:
                raise shortage from None
            raise NotFetchedError("network", f"{url}: {type(error).__name__}") from None

    def _exchange(self, url: str, deadline: float, max_bytes: int, cut: bool) -> Response:
        self._edge.deadline = deadline
        limits = {"connect": self._config.connect_seconds, "read": self._config.read_seconds}
        extensions: dict[str, Any] = {"timeout": {**limits, "write": limits["read"], "pool": limits["read"]}}
        headers = {
            "User-Agent": self._config.user_agent,
            "Accept": "text/html,*/*;q=0.5",
            "Accept-Encoding": "identity",
        }
        with self._pool.stream("GET", url, headers=headers, extensions=extensions) as answer:
            body = bytearray()
            for chunk in answer.iter_stream():
                body += chunk
                if time.monotonic() > deadline:
                    raise NotFetchedError("timeout", url)
                if len(body) > max_bytes:
                    if cut:
                        break
                    raise NotFetchedError("too_large", url)
            kept = tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in answer.headers)
            headers_kept = tuple(item for item in kept if item[0].lower() not in HOP_HEADERS)
            return Response(url, answer.status, headers_kept, bytes(body[:max_bytes]))
