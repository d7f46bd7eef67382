"""The encoding that a page states itself, as browsers look for it before parsing (HTML standard, section 13.2.3.2)."""

from __future__ import annotations

import re

from longcat.stages.data.extract.charset.labels import encoding_name

# Browsers look at 1,024 bytes first, and again when the parser meets a later element.
HEAD_BYTES = 16 << 10
COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
XML_DECLARATION = re.compile(rb"""\s*<\?xml\s[^>]*?encoding\s*=\s*["']([^"'>]+)["']""", re.IGNORECASE)
META = re.compile(rb"""<meta[\s/][^>]*?charset\s*=\s*["']?\s*([^\s"'/>;]+)""", re.IGNORECASE)
# A page whose `<meta>` could be read as ASCII is in none of these.
MEANT = {"utf-16le": "utf-8", "utf-16be": "utf-8", "x-user-defined": "windows-1252"}


def meta_encoding(page: bytes) -> str | None:
    """Encoding named by `<meta>` or, if there is none, by the XML declaration; None if none is known."""
    head = COMMENT.sub(b"", page[:HEAD_BYTES])
    for match in (*META.finditer(head), XML_DECLARATION.match(head)):
        name = encoding_name(match[1].decode("latin-1")) if match else None
        if name is not None:
            return MEANT.get(name, name)
    return None
