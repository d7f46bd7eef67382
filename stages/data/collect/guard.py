"""The network edge of the crawler: it connects only to addresses that were checked.

A name is resolved once and the connection goes to the very address that passed the check, so a name that changes its
answer between check and use (DNS rebinding) cannot lead inside a private network.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpcore

# Addresses that stand for an IPv4 address behind a translator (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(Exception):
    """A host resolves to an address that must not be reached."""


class UnknownHostError(Exception):
    """A host does not resolve."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet, also when it wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast


class GuardedBackend(httpcore.NetworkBackend):
    """Plain TCP connections to checked addresses, on which nothing waits past `deadline` (of time.monotonic)."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._plain = httpcore.SyncBackend()
        self.deadline = float("inf")

    def left(self, timeout: float | None) -> float | None:
        """The smaller of `timeout` and what is left until the deadline, in seconds.

        Raises:
            httpcore.TimeoutException: nothing is left.
        """
        left = min(self.deadline - time.monotonic(), float("inf") if timeout is None else timeout)
        if left <= 0:
            raise httpcore.ReadTimeout("the time for this page is over")
        return None if left == float("inf") else left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host`.

        Raises:
            PrivateAddressError: one of its addresses is not public and private ones are not allowed.
            UnknownHostError: it has no address.
        """
        address = self.resolve(host, port, self.left(timeout))
        stream = self._plain.connect_tcp(address, port, self.left(timeout), local_address, socket_options)
        return _TimedStream(stream, self)

    def resolve(self, host: str, port: int, timeout: float | None = None) -> str:
        """The checked address that `host` stands for."""
        addresses = _look_up(host, port, timeout)
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise PrivateAddressError(host)
        return addresses[0]


class _TimedStream(httpcore.NetworkStream):
    """A stream that gives up at the deadline, however steadily a server drips bytes."""

    def __init__(self, stream: httpcore.NetworkStream, backend: GuardedBackend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return bytes(self._stream.read(max_bytes, self._backend.left(timeout)))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._backend.left(timeout))
        return _TimedStream(secured, self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _look_up(host: str, port: int, timeout: float | None) -> list[str]:
    """The addresses of `host`; the system's resolver has no time limit of its own, so it runs aside."""
    answers: queue.Queue[list[str] | None] = queue.Queue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(entry[4][0]) for entry in found])
        except (OSError, UnicodeError):
            answers.put(None)

    threading.Thread(target=ask, daemon=True).start()
    try:
        addresses = answers.get(timeout=timeout)
    except queue.Empty:
        raise httpcore.ConnectTimeout(f"looking up {host}") from None
    if not addresses:
        raise UnknownHostError(host)
    return addresses
