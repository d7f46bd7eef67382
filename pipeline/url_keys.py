"""Host and path of any URL in one form for comparison: untrusted URLs of documents, entries of blocklists.

Hosts are compared as browsers do (URL Standard): UTS 46 to Punycode, lower case, without trailing dots, addresses in
their shortest form. Scheme, user, default port, fragment and percent-encoding make no difference.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

import idna

MAX_HOST_CHARACTERS = 1024  # longer ones are not decoded; a valid host has 253
_DEFAULT_PORTS = {"http": "80", "https": "443", "ftp": "21"}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):[/\\\\]{2,}", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_IGNORED = dict.fromkeys(map(ord, "\t\r\n"))


@dataclass(frozen=True)
class UrlKey:
    """Host in normal form, `is_address` for IP addresses, and `rest`: port unless default, path, query; decoded."""

    host: str
    is_address: bool
    rest: str

    def domains(self) -> list[str]:
        """The host and the domains above it: `a.b.org`, `b.org`, `org`; an address has none above it."""
        if self.is_address:
            return [self.host]
        labels = self.host.split(".")
        return [".".join(labels[at:]) for at in range(len(labels))]


def url_key(url: str) -> UrlKey | None:
    """Key of a URL, with or without its scheme; None if it is not of the web, or has no valid host."""
    text = url.translate(_IGNORED).strip()
    scheme = _SCHEME.match(text)
    name = scheme[1].lower() if scheme else "http"
    if name not in _DEFAULT_PORTS:
        return None
    text = text.replace("\\", "/")
    rest = text[scheme.end() :] if scheme else text.lstrip("/")
    end = min((at for sign in "/?#" if (at := rest.find(sign)) >= 0), default=len(rest))
    match = _AUTHORITY.fullmatch(rest[:end].rpartition("@")[2])
    host = host_key(match[1]) if match else None
    if match is None or host is None:
        return None
    port = (match[2] or "").lstrip("0")
    path = rest[end:].partition("#")[0]
    if not path.startswith("/"):
        path = f"/{path}"
    shown_port = "" if port in ("", _DEFAULT_PORTS.get(name)) else f":{port}"
    return UrlKey(host, is_address(host), shown_port + unicodedata.normalize("NFC", unquote(path)))


def host_key(host: str) -> str | None:
    """Normal form of a host name or address; None if it is neither."""
    if len(host) > MAX_HOST_CHARACTERS:
        return None
    if host.startswith("["):
        return _version6(host[1:-1]) if host.endswith("]") else None
    try:
        name = idna.uts46_remap(unquote(host), std3_rules=False, transitional=False)
        labels = [_ascii(label) for label in name.rstrip(".").split(".")]
    except (idna.IDNAError, UnicodeError):
        return None
    if not all(_LABEL.fullmatch(label) for label in labels) or len(".".join(labels)) > 253:
        return None
    if not _NUMBER.fullmatch(labels[-1]):
        return ".".join(labels)
    try:  # short and hexadecimal forms are addresses too: 127.1, 0x7f000001
        return socket.inet_ntoa(socket.inet_aton(".".join(labels)))
    except OSError:
        return None


def is_address(host: str) -> bool:
    """Whether a host in normal form is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _ascii(label: str) -> str:
    return label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")


def _version6(text: str) -> str | None:
    try:
        return ipaddress.IPv6Address(text).compressed
    except ValueError:
        return None
