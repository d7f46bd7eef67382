"""Parser of untrusted URLs: lists, redirects, command lines. Raises only BadUrlError."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from longcat.pipeline.errors import InputError

MAX_URL_CHARACTERS = 8192
MAX_SHOWN_CHARACTERS = 200
WEB_SCHEMES = ("http", "https")
_PORTS = {"http": 80, "https": 443}
# Visible ASCII without the backslash, which some parsers treat as a slash.
_PLAIN = re.compile(r"[!-\[\]-~]+")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{0,5}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
# Resolvers read 2130706433, 0x7f.1 and 127.1 as addresses: a host that ends in a number must be a valid address.
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)")
_WEB_START = re.compile(r"https?:(?!//[^/?#])", re.IGNORECASE)


class BadUrlError(InputError):
    """A text is not a URL that can be fetched; `reason` says why, `where` shows the text."""

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"invalid URL: {what}", where=where, hint=hint)
        self.reason = what


@dataclass(frozen=True)
class WebUrl:
    """An http(s) URL whose every part was checked. `host` is in lower case, an IPv6 address without its brackets."""

    text: str
    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return self.text

    @property
    def origin(self) -> str:
        """Origin (scheme, host and port), the key of per-site rules; the port only if not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    def join(self, reference: str) -> WebUrl:
        """Resolve a reference against this URL, such as the Location of a redirect.

        Raises:
            BadUrlError: it cannot be fetched.
        """
        _check_text(reference)
        # urljoin would use the base's host for an empty host.
        if _WEB_START.match(reference) or reference.startswith("///"):
            raise BadUrlError("it has no host", where=shown(reference))
        try:
            joined = urljoin(self.text, reference)
        except ValueError as error:
            raise BadUrlError(str(error), where=shown(reference)) from None
        return web_url(joined)


def web_url(text: str) -> WebUrl:
    """A plain http(s) URL: ASCII, a host, no credentials.

    Raises:
        BadUrlError: it is anything else. No other exception is raised.
    """
    _check_text(text)
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise BadUrlError(str(error), where=shown(text)) from None
    if parts.scheme not in WEB_SCHEMES:
        raise BadUrlError("it is neither http nor https", where=shown(text))
    if "@" in parts.netloc:
        # The text is not shown: it may contain a password.
        raise BadUrlError("it contains a user name or password, which would be written to files", where=parts.scheme)
    match = _AUTHORITY.fullmatch(parts.netloc)
    if match is None:
        raise BadUrlError("it has no valid host and port", where=shown(text))
    port = int(match[3] or _PORTS[parts.scheme])
    if not 0 < port < 1 << 16:
        raise BadUrlError(f"invalid port {port}", where=shown(text))
    host = (match[1] or match[2]).lower()
    if not (_is_address(ipaddress.IPv6Address, host) if match[1] else _is_name(host)):
        raise BadUrlError(f"{host[:MAX_SHOWN_CHARACTERS]!r} is not a host name or address", where=shown(text))
    return WebUrl(text, parts.scheme, host, port)


def shown(text: str) -> str:
    """Untrusted text for an error message: one line of visible characters, truncated."""
    cut = text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def _check_text(text: str) -> None:
    if len(text) > MAX_URL_CHARACTERS:
        raise BadUrlError(f"longer than {MAX_URL_CHARACTERS} characters", where=shown(text))
    if not _PLAIN.fullmatch(text):
        what = "blanks, backslashes, control characters or letters outside ASCII" if text else "it is empty"
        raise BadUrlError(what, where=shown(text))


def _is_name(host: str) -> bool:
    if not _NAME.fullmatch(host):
        return False
    numeric = _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2])
    return not numeric or _is_address(ipaddress.IPv4Address, host)


def _is_address(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], host: str) -> bool:
    try:
        kind(host)
    except ValueError:
        return False
    return True
