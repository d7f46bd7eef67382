"""Masking of e-mail addresses, public IP addresses and phone numbers in a text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator

from longcat.stages.data.rules.config import PII_COUNTS, PiiRules

# Latin, Greek and Cyrillic: in scripts without blanks an address would take in the words beside it.
_LETTERS = "A-Za-z\u00aa-\u024f\u0370-\u052f"
_LOCAL = re.compile(rf"[{_LETTERS}0-9_+](?:[{_LETTERS}0-9_.%+'&~-]*[{_LETTERS}0-9_+-])?\Z")
_DOMAIN = re.compile(
    rf"(?:[{_LETTERS}0-9](?:[{_LETTERS}0-9-]{{0,61}}[{_LETTERS}0-9])?\.)+"
    rf"(?:xn--[A-Za-z0-9-]{{1,59}}|[{_LETTERS}]{{2,63}})"
)
LOCAL_CHARACTERS, DOMAIN_CHARACTERS = 64, 253
# Whole numbers only: longer dotted numbers are versions, sections or object identifiers.
_VERSION4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
_VERSION6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{1,38}(?:(?<=:)(?:\d{1,3}\.){3}\d{1,3})?(?![\w:]|\.\d)"
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # the only part that is allocated; `cafe::babe` is no address
# A phone number has at least seven digits; the library sees only such places, with some characters around them.
_MANY_DIGITS = re.compile(r"\d(?:[^\n\d]{0,4}\d){6,}")
AROUND = 24

Spans = Iterator[tuple[int, int]]


class Masker:
    """Replaces personal data by tokens, and counts it."""

    def __init__(self, rules: PiiRules) -> None:
        finders: list[tuple[str, bool, Callable[[str], Spans], str]] = [
            ("emails", rules.emails, find_emails, rules.email_token),
            ("ip_addresses", rules.ip_addresses, find_ip_addresses, rules.ip_address_token),
            ("phone_numbers", rules.phone_numbers, self._phone_numbers, rules.phone_number_token),
        ]
        self._finders = [(name, find, token) for name, enabled, find, token in finders if enabled]
        self._regions = rules.phone_regions

    def mask(self, text: str) -> tuple[str, dict[str, int]]:
        """Masked text, and the number of replacements by kind."""
        counts = dict.fromkeys(PII_COUNTS, 0)
        for name, find, token in self._finders:
            text, counts[name] = _replaced(text, find(text), token)
        return text, counts

    def _phone_numbers(self, text: str) -> Spans:
        return find_phone_numbers(text, self._regions)


def find_emails(text: str) -> Spans:
    """E-mail addresses, each as its start and end."""
    end = 0
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.search(text, max(end, at - LOCAL_CHARACTERS), at)
        domain = _DOMAIN.match(text, at + 1, at + 1 + DOMAIN_CHARACTERS)
        if local and domain and ".." not in local[0]:
            end = domain.end()
            yield local.start(), end
        at = text.find("@", at + 1)


def find_ip_addresses(text: str) -> Spans:
    """Addresses of the public internet, versions 4 and 6, in order."""
    found = [*_VERSION4.finditer(text), *(_VERSION6.finditer(text) if "::" in text or text.count(":") > 6 else ())]
    yield from _apart(match.span() for match in found if _is_public(match[0]))


def find_phone_numbers(text: str, regions: tuple[str, ...]) -> Spans:
    """Valid phone numbers: international ones, and those in the national notation of `regions`, in order.

    National numbers must be grouped as in their country; a block of digits may be any number.
    """
    from phonenumbers import Leniency, PhoneNumberMatcher

    spans: list[tuple[int, int]] = []
    for start, end in _digit_places(text):
        part = text[start:end]
        spans += [(start + match.start, start + match.end) for match in PhoneNumberMatcher(part, None)]
        for region in regions:
            found = PhoneNumberMatcher(part, region, leniency=Leniency.STRICT_GROUPING)
            spans += [(start + m.start, start + m.end) for m in found if not m.raw_string.isdecimal()]
    yield from _apart(spans)


def _apart(spans: Iterable[tuple[int, int]]) -> Spans:
    """Spans in order, without those that begin in an earlier or longer one."""
    last = 0
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= last:
            yield start, end
            last = end


def _digit_places(text: str) -> Spans:
    """Parts of lines with many digits."""
    last = 0
    for match in _MANY_DIGITS.finditer(text):
        start = max(last, text.rfind("\n", 0, match.start()) + 1, match.start() - AROUND)
        line_end = text.find("\n", match.end())
        last = min(line_end if line_end >= 0 else len(text), match.end() + AROUND)
        yield start, last


def _replaced(text: str, spans: Spans, token: str) -> tuple[str, int]:
    pieces = []
    last = count = 0
    for start, end in spans:
        pieces += [text[last:start], token]
        last = end
        count += 1
    return ("".join([*pieces, text[last:]]), count) if count else (text, 0)


def _is_public(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # such as 999.1.1.1, or a time of day
        return False
    return address.is_global and not address.is_multicast and (address.version == 4 or address in _GLOBAL_UNICAST)
