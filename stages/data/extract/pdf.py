"""Text of PDF files by PDFium, the library of Chromium: fast, and made for untrusted files."""

from __future__ import annotations

import re

from longcat.stages.data.extract.html import Page
from longcat.stages.data.extract.records import Rejected

# PDFium marks a hyphen at the end of a line, where the word goes on, by this noncharacter.
HYPHEN_AT_LINE_END = re.compile("\ufffe\\n?")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


def extract_pdf(data: bytes) -> Page:
    """Text of all pages, with an empty line between them; lines are those of the page.

    Raises:
        Rejected: `bad_pdf` if PDFium cannot open the file, also for lack of a password.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise Rejected("bad_pdf", str(error)[:200]) from None
    try:
        pages = [_page_text(document, number) for number in range(len(document))]
        title = " ".join(str(document.get_metadata_value("Title")).split())[:1000]
    finally:
        document.close()
    return Page("\n\n".join(filter(None, pages)), title or None, None, "utf-8", 0)


def _page_text(document: object, number: int) -> str:
    """Text of one page; empty if the page is damaged."""
    import pypdfium2

    try:
        page = document[number]  # type: ignore[index]
        text = page.get_textpage().get_text_bounded()
    except pypdfium2.PdfiumError:
        return ""
    text = HYPHEN_AT_LINE_END.sub("", text.replace("\r\n", "\n"))
    return CONTROLS.sub("", text).strip()
