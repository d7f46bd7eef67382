"""Network backend of everything that fetches: connects only to checked addresses.

A name is resolved once and the connection uses the address that passed the check, so DNS rebinding cannot reach a
private network.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

from longcat.pipeline.faults import own_shortage

MAX_ADDRESSES = 8

# Ranges that `ipaddress` reports as global, at least in some Python releases, but are not public: the registries of RFC
# 6890, and a cloud metadata address.
_CLOSED_IPV4 = [
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    )
]
# All public addresses are in one block; it also contains Teredo and other protocols, documentation ranges, and 6to4,
# whose relays forward packets to the embedded IPv4 address.
_OPEN_IPV6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_IPV6 = [ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
# IPv6 forms of an IPv4 address that a host or translator maps back to it (RFC 4291, RFC 6052).
_WRAPPING_IPV6 = [ipaddress.IPv6Network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96")]

# (host, port, whether every address is public) -> whether connecting is allowed.
Policy = Callable[[str, int, bool], bool]


class PrivateAddressError(Exception):
    """A host resolves to an address that must not be reached."""


class UnknownHostError(Exception):
    """A host does not resolve."""


def is_public(address: str) -> bool:
    """Whether an address from the resolver is public, including embedded IPv4 addresses.

    False for text that is not an address.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return _is_public_ipv4(ip)
    if ip.scope_id is not None:
        return False
    if any(ip in network for network in _WRAPPING_IPV6):
        return _is_public_ipv4(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return ip.is_global and ip in _OPEN_IPV6 and not any(ip in network for network in _CLOSED_IPV6)


def _is_public_ipv4(ip: ipaddress.IPv4Address) -> bool:
    return ip.is_global and not any(ip in network for network in _CLOSED_IPV4)


class GuardedBackend(httpcore.NetworkBackend):
    """TCP connections to checked addresses; no operation waits past `deadline` (time.monotonic)."""

    def __init__(self, allowed: bool | Policy = False) -> None:
        """`allowed`: whether non-public addresses may be reached, or a function that decides per connection."""
        self._allowed: Policy = allowed if callable(allowed) else lambda host, port, public: public or bool(allowed)
        self._plain = httpcore.SyncBackend()
        self.deadline = float("inf")

    def left(self, timeout: float | None) -> float | None:
        """Minimum of `timeout` and the time until the deadline, in seconds.

        Raises:
            httpcore.TimeoutException: the deadline has passed.
        """
        left = min(self.deadline - time.monotonic(), float("inf") if timeout is None else timeout)
        if left <= 0:
            raise httpcore.ReadTimeout("the time for this request is over")
        return None if left == float("inf") else left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host` that answers.

        Raises:
            PrivateAddressError: one of its addresses is not public and that is not allowed.
            UnknownHostError: it has no address.
            httpcore.ConnectError, httpcore.ConnectTimeout: none of them answers.
            OSError: this machine ran out of a resource.
        """
        addresses = self.resolve(host, port, self.left(timeout))
        for position, address in enumerate(addresses):
            try:
                stream = self._plain.connect_tcp(address, port, self.left(timeout), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if position == len(addresses) - 1:
                    raise
            else:
                return _TimedStream(stream, self)
        raise UnknownHostError(host)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def resolve(self, host: str, port: int, timeout: float | None = None) -> list[str]:
        """Checked addresses of `host`; raises as `connect_tcp`."""
        addresses = _look_up(host, port, timeout)
        if not self._allowed(host, port, all(map(is_public, addresses))):
            raise PrivateAddressError(host)
        return addresses[:MAX_ADDRESSES]


class _TimedStream(httpcore.NetworkStream):
    """Stream that times out at the deadline, even if the server keeps sending slowly."""

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
    """Addresses of `host`; resolved in a thread, since the system resolver has no timeout."""
    answers: queue.Queue[list[str] | OSError | None] = queue.Queue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except (OSError, ValueError) as error:
            answers.put(own_shortage(error))

    threading.Thread(target=ask, daemon=True).start()
    try:
        addresses = answers.get(timeout=timeout)
    except queue.Empty:
        raise httpcore.ConnectTimeout(f"looking up {host}") from None
    if isinstance(addresses, OSError):
        raise addresses
    if not addresses:
        raise UnknownHostError(host)
    return addresses
