"""The network edge of the crawler: it connects only to addresses that were checked.

A name is resolved once and the connection goes to the very address that passed the check, so a name that changes its
answer between check and use (DNS rebinding) cannot lead inside a private network.
"""

from __future__ import annotations

import ipaddress
import socket
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
    """Plain TCP connections to checked addresses."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._plain = httpcore.SyncBackend()

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
        address = self.resolve(host, port)
        return self._plain.connect_tcp(address, port, timeout, local_address, socket_options)

    def resolve(self, host: str, port: int) -> str:
        """The checked address that `host` stands for."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise UnknownHostError(host) from None
        addresses = [str(entry[4][0]) for entry in found]
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise PrivateAddressError(host)
        return addresses[0]
