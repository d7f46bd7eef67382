"""The text of a block while its inline elements are read."""

from __future__ import annotations

import re

from longcat.stages.data.extract.content.inline import (
    ABOVE,
    BELOW,
    CODE,
    CODE_END,
    DEFAULT_QUOTES,
    DELETED,
    DELETED_END,
    PERMALINK,
    QUOTES,
    SCRIPT_END,
    is_permalink,
    resolve,
)

LANGUAGE = re.compile(r'\blang="([A-Za-z]{2,3})\b')


def unescape(text: str) -> str:
    """Undo escapes of the serialisation."""
    if "&" not in text:
        return text
    return (
        text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&nbsp;", " ")
        .replace("&quot;", '"')
        .replace("&amp;", "&")
    )


class InlineText:
    """Text of one block after another. `parts` and `links` stay the same lists: the pass appends to them directly."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.links: list[str] = []  # texts inside links
        self.marked = False  # whether `parts` has marks
        self.scripts: list[tuple[int, int]] = []  # lengths of `parts` and `links` at open superscripts and subscripts
        self.code = 0  # depth
        self.code_start = 0  # length of `parts` at its start
        self.deleted = 0  # depth
        self.permalink = (-1, "")  # length of `parts` at a link in a title, and its attributes
        self.formula = (-1, "")  # length of `parts` after a formula, and the formula
        self.rendered = False  # whether the formula was found in the output of MathJax
        self.quotes, self.quoted = DEFAULT_QUOTES, 0

    def take(self, *, keep_space: bool) -> tuple[str, int]:
        """The text since the last call and its number of linked characters."""
        if self.deleted:
            self.parts.append(DELETED_END)
        raw = unescape("".join(self.parts))
        self.parts.clear()
        linked = len("".join(self.links))
        self.links.clear()
        self.scripts.clear()
        self.formula = self.permalink = (-1, "")
        if keep_space:
            text = raw.strip("\n").rstrip()
        elif "\x00" in raw:
            text = "\n".join([" ".join(line.split()) for line in raw.split("\x00")]).strip("\n")
        else:
            text = " ".join(raw.split())
        if self.marked:
            text = resolve(text).strip()
            self.marked = False
        if self.deleted:
            self.parts.append(DELETED)
            self.marked = True
        return text, linked

    def separate(self) -> None:
        """Part two custom elements of the same name, as the cards of a list, if they would run into one word."""
        if self.parts and len(self.parts[-1]) > 2 and self.parts[-1][-1].isalnum():
            self.parts.append(" ")

    def set_language(self, attributes: str) -> None:
        """Use the quotation marks of the page's language."""
        if found := LANGUAGE.search(attributes):
            self.quotes = QUOTES.get(found[1].lower(), DEFAULT_QUOTES)

    def inline_code(self, slash: str) -> None:
        """Mark code; code inside code, as in `<kbd><kbd>Ctrl</kbd>+C</kbd>`, is one span with it."""
        before, self.code = self.code, max(0, self.code + (-1 if slash else 1))
        if not slash and not before:
            self.code_start = len(self.parts)
        if self.code + before == 1:
            self.parts.append(CODE_END if slash else CODE)
            self.marked = True

    def lines_of_code(self) -> str:
        """Text of the code that just ended, if it has line breaks, else empty; still escaped."""
        if self.code or "\x00" not in self.parts[self.code_start :]:
            return ""
        lines = "".join(self.parts[self.code_start + 1 : -1]).split("\x00")
        return "\n".join(line.strip("\r\n") for line in lines)

    def split_code(self) -> None:
        """Make each line of the code that just ended code of its own."""
        parts = self.parts
        parts[self.code_start :] = [
            f"{CODE_END}\x00{CODE}" if part == "\x00" else part for part in parts[self.code_start :]
        ]

    def mark(self, tag: str, slash: str) -> None:
        """Mark superscripts, subscripts and deletions; put quotations in quotation marks."""
        if tag == "q":
            self.quoted += 0 if slash else 1
            pair = 2 * ((self.quoted - 1) % 2)
            self.parts.append(self.quotes[pair + (1 if slash else 0)])
            self.quoted -= 1 if slash else 0
            return
        self.marked = True
        if tag not in ("sup", "sub"):
            self.parts.append(DELETED_END if slash else DELETED)
            self.deleted = max(0, self.deleted + (-1 if slash else 1))
        elif not slash:
            self.scripts.append((len(self.parts), len(self.links)))
            self.parts.append(ABOVE if tag == "sup" else BELOW)
        elif self.scripts:
            self._end_script(tag, *self.scripts.pop())

    def _end_script(self, tag: str, start: int, links: int) -> None:
        text = "".join(self.parts[start + 1 :]).strip()
        linked = "".join(self.links[links:]).strip()
        if tag == "sup" and text and text == linked and not text.startswith("["):
            self.parts[start] = "["  # a reference to a note
            self.parts.append("]")
        else:
            self.parts.append(SCRIPT_END)

    def end_link_in_title(self) -> None:
        """Mark the link in a title that ends if it leads to the title itself."""
        start, attributes = self.permalink
        self.permalink = (-1, "")
        if start < len(self.parts) and is_permalink(unescape("".join(self.parts[start:])), attributes):
            self.parts.insert(start, PERMALINK)
            self.parts.append(PERMALINK)
            self.marked = True

    def add_formula(self, source: str) -> None:
        """Add a formula; once, if the same is just before it."""
        if source and not (self.is_after_formula() and source.strip(" $") == self.formula[1].strip(" $")):
            self.parts.append(source)
            self.formula = len(self.parts), source

    def is_after_formula(self) -> bool:
        """Whether there is no text after the last formula."""
        at = self.formula[0]
        return at > 0 and not "".join(self.parts[at:]).strip()

    def add_source(self, source: str) -> None:
        """Add the source of a formula, in place of what was found in its output."""
        if source and self.rendered and self.is_after_formula():
            del self.parts[self.formula[0] - 1 :]
            self.formula = (-1, "")
        self.rendered = False
        self.add_formula(source)
