"""Host header check: protects the server from web pages that use DNS rebinding."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from longcat.pipeline.errors import UsageError
from longcat.pipeline.printable import one_line
from longcat.stages.serve.errors import ApiError

ANY = "*"
_HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::[0-9]{0,5})?")
_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
SHOWN_CHARACTERS = 100


def served_hosts(bound: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Allowed hosts besides loopback names, from the bound address and the user's list.

    A server bound to every address without an allowed list accepts any host, since it cannot know its names.

    Raises:
        UsageError: an allowed host is not a host name or address.
    """
    names = [_checked(name) for name in allowed]
    if not names and any(_is_unspecified(name) for name in bound):
        return (ANY,)
    return tuple(dict.fromkeys([*(name.lower().rstrip(".") for name in bound), *names]))


def _checked(name: str) -> str:
    plain = name.lower().rstrip(".").removeprefix("[").removesuffix("]")
    if plain == ANY or _PATTERN.fullmatch(plain) or _address(plain):
        return plain
    hint = "give a name such as models.example.com, *.example.com, an address, or * for any; no port"
    raise UsageError(f"--allowed-host {one_line(name)!r} is not a host", hint=hint)


def is_served(header: str, hosts: Iterable[str]) -> bool:
    """Whether a Host header names loopback or one of `hosts`."""
    match = _HOST.fullmatch(header.strip().lower())
    if match is None:
        return False
    host = (match[1] or match[2]).rstrip(".")
    # Browsers resolve names below localhost themselves (RFC 6761).
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    if address is not None and _is_loopback(address):
        return True
    return any(_matches(host, address, name) for name in hosts)


def _matches(host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, name: str) -> bool:
    if name.startswith("*."):
        return host.endswith(name[1:])
    return host == name or (address is not None and address == _address(name))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_unspecified(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_unspecified


class HostGuard:
    """ASGI middleware: 403 for requests with another host in the Host header.

    Requests without the header are accepted; only HTTP/1.0 allows them and browsers do not send them.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = tuple(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or ANY in self._hosts:
            await self._app(scope, receive, send)
            return
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        refused = [value for value in given if not is_served(value, self._hosts)]
        if not refused:
            await self._app(scope, receive, send)
            return
        shown = one_line(refused[0])[:SHOWN_CHARACTERS]
        error = ApiError(
            403,
            f"the host {shown!r} is not served here; start the server with --allowed-host to allow it",
            code="host_not_allowed",
        )
        await error.response(scope)(scope, receive, send)
