"""Code of a page: which elements hold it, its lines, and its language.

Code is in `<pre>`, in elements styled to keep white space, in known containers of code viewers, and in tables with one
row per line. Line numbers and buttons are not part of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from longcat.stages.data.extract.content.roles import CONTAINER, LIKELY, NUMBER_NAMES, NUMBERS, classes, role
from longcat.stages.data.extract.content.tags import SKIPPED_TAGS, VOID_TAGS, words

Tokens = Sequence[tuple[str, ...]]  # (text, raw tag, raw attributes, raw content, slash, tag, attributes)

LINES = words("line code-line token-line code__line view-line cm-line ace_line codeline react-file-line")
# Cells of tables with one row per line: GitHub, GitLab, highlight.js.
LINE_CELLS = words("blob-code js-file-line line_content hljs-ln-code rouge-code crayon-code")
NUMBER_DATA = re.compile(r'\bdata-(?:line|line-number|linenumber|ln)="(\d+)"')
COPY = re.compile(r"(?:^|[-_\s])(?:copy|clipboard|copybtn|copybutton|copytoclipboard)(?:$|[-_\s])", re.I)
SPACE = re.compile(r"^(?: |&nbsp;)", re.M)
# A container with these holds text: one that is not closed takes in the rest of its page.
PROSE_TAGS = words("h1 h2 h3 h4 h5 h6 p form nav article section header footer aside main dl blockquote")
# Without meaning inside code; comments have no tag.
PLAIN_TAGS = words("span code b i em strong font u var tt kbd samp mark small ins") | {""}
LINE_TAGS = words("div li tr pre ol ul table tbody thead p")
CONTAINER_TAGS = words("div td ol ul section figure code")
FEW_TAGS = 8
LANGUAGE = re.compile(
    r"(?:^|\s)(?:language[-:]|lang[-:]|highlight-(?:source-|text-)?|brush:\s*|sourceCode\s+|src\s+src-|hljs\s+)"
    r"([A-Za-z][\w+#.-]*)"
)
LANGUAGE_DATA = re.compile(r'\bdata-(?:lang|language|code-language|code-lang|enlighter-language)="([A-Za-z][\w+#.-]*)"')
LANG = re.compile(r'\slang="([^"]*)"')  # also of people
# Named by a class without a prefix.
LANGUAGES = words(
    "bash c clojure cmake cpp c++ c# csharp css diff docker dockerfile elixir elm erlang fortran go golang "
    "graphql groovy haskell hcl html http ini java javascript js json jsx julia kotlin latex less lisp lua "
    "makefile markdown matlab nginx nix objc objectivec ocaml pascal perl php powershell prolog protobuf py "
    "python python3 r rb ruby rust sass scala scheme scss sh shell sql swift tcl terraform toml ts tsx typescript "
    "vb verilog vhdl vim xml yaml yml zig zsh"
)
CODE_NAMES = words("highlight code codehilite sourceCode source-code src geshi syntaxhighlighter")
NO_LANGUAGES = words(
    "none text plain plaintext txt default notranslate nohighlight no-highlight console-output auto "
    "source undefined copy code-block toolbar wrapper lines js-file-line-container"
)


def end_of(tokens: Tokens, start: int) -> int:
    """Index of the end tag of the element that starts at `start`; of the last token if it is missing."""
    tag, depth = tokens[start][5], 0
    for index in range(start, len(tokens)):
        token = tokens[index]
        if token[5] == tag:
            depth += -1 if token[4] else 1
            if not depth:
                return index
    return len(tokens) - 1


def starts_code(tokens: Tokens, start: int, roles: int) -> bool:
    """Whether the element at `start` holds code, by its roles and, where they do not suffice, its first elements."""
    if tokens[start][5] not in CONTAINER_TAGS:
        return False
    return bool(roles & CONTAINER) or (bool(roles & LIKELY) and _starts_with_lines(tokens, start))


def _starts_with_lines(tokens: Tokens, start: int) -> bool:
    """Whether one of the first elements inside the one at `start` is a line of code."""
    inside = tokens[start + 1 : start + 4]
    return any(not token[4] and not LINES.isdisjoint(classes(token[6])) for token in inside)


def is_table_of_lines(tokens: Tokens, start: int) -> bool:
    """Whether the first cells of the table at `start` are a line of code, or line numbers and then code."""
    for index in range(start + 1, min(start + FEW_TAGS, len(tokens))):
        _, _, _, _, slash, tag, attributes = tokens[index]
        if slash or not attributes or tag not in ("td", "th"):
            continue
        names = classes(attributes)
        if not LINE_CELLS.isdisjoint(names):
            return True
        if not NUMBER_NAMES.isdisjoint(names):
            end = end_of(tokens, index)
            return only_numbers(tokens, index, end) and any(map(_is_code, tokens[end + 1 : end + FEW_TAGS]))
    return False


def _is_code(token: tuple[str, ...]) -> bool:
    return token[5] == "pre" or any("code" in name or name in LINES for name in classes(token[6]))


def markup(tokens: Tokens, start: int, end: int) -> str:
    """Markup of the element from `start` to `end`."""
    parts = [f"<{tokens[start][5]}{tokens[start][6]}>"]
    for text, _, _, _, slash, tag, attributes in tokens[start + 1 : end + 1]:
        parts.append(f"{text}<{slash}{tag}{attributes}>" if tag else text)
    return "".join(parts)


def only_numbers(tokens: Tokens, start: int, end: int) -> bool:
    """Whether the text of the element from `start` to `end` is line numbers, marks of changes, or empty."""
    return all(not token[0].strip(" \t\n\r\f+-.:|0123456789") for token in tokens[start + 1 : end + 1])


def holds_prose(tokens: Tokens, start: int, end: int) -> bool:
    """Whether headings, paragraphs or page parts are in the element from `start` to `end`."""
    return not PROSE_TAGS.isdisjoint([token[5] for token in tokens[start + 1 : end]])


@lru_cache(maxsize=1 << 12)
def _is_plain(attributes: str) -> bool:
    """Whether an element inside code is neither a line, nor line numbers, nor a button."""
    names = classes(attributes)
    return (
        LINES.isdisjoint(names)
        and NUMBER_NAMES.isdisjoint(names)
        and not NUMBER_DATA.search(attributes)
        and not any(COPY.search(name) for name in names)
    )


def language_of(*attributes: str) -> str:
    """Language of code by the class or data attributes of its elements, the first that states one; else empty.

    The first attributes are of the code itself; only they, and elements named for code, may say it without a prefix.
    """
    for position, text in enumerate(attributes):
        if not text:
            continue
        if found := LANGUAGE_DATA.search(text):
            return found[1].lower()
        names = classes(text)
        for match in LANGUAGE.finditer(" ".join(names)):
            if match[1].lower() not in NO_LANGUAGES:
                return match[1].lower()
        if position and CODE_NAMES.isdisjoint(names):
            continue
        stated = [*names, *LANG.findall(text)]
        if named := LANGUAGES.intersection(map(str.lower, stated)):
            return min(named)
    return ""


class _Lines:
    """Lines of code: text as it is, and a line break around each element that is a line, unless it has its own."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.starts: list[int] = []
        self.broken = True  # at the start of a line
        self.pending = False

    def text(self, text: str) -> None:
        if not text:
            return
        if self.pending and not text.lstrip(" \t").startswith("\n"):
            self.parts.append("\n")
        self.pending = False
        self.parts.append(text)
        self.broken = text.endswith("\n")

    def open(self) -> None:
        if self.pending or not self.broken:
            self.parts.append("\n")
        self.pending, self.broken = False, True
        self.starts.append(len(self.parts))

    def close(self) -> None:
        inside = self.parts[self.starts.pop() :]
        self.pending = self.pending or not inside or not inside[-1].endswith("\n")


class _Code:
    """State of `code_text`."""

    def __init__(self, tokens: Tokens, start: int) -> None:
        self.tokens = tokens
        self.lines = _Lines()
        self.in_table = tokens[start][5] == "table"
        self.cells = 0
        self.in_link = 0
        self.linked = 0
        self.language = ""
        self.spans: list[bool] = []  # whether each open span is a line
        self.numbered = False  # whether line numbers were left out
        self.checked = 0  # index up to which no further line numbers are looked for

    def text(self, text: str, tag: str) -> None:
        if (tag in LINE_TAGS and text.isspace() and "\n" in text) or (self.in_table and not self.cells):
            return  # between lines
        self.lines.text(text)
        if self.in_link:
            self.linked += len(text)

    def open(self, tag: str, attributes: str) -> None:
        if tag == "a":
            self.in_link += 1
        elif tag in ("td", "th"):
            self.cells += 1
            if not (self.lines.broken or self.lines.pending):
                self.lines.text("\t")
        elif tag == "span":
            self.spans.append(not _is_plain(attributes) and not LINES.isdisjoint(classes(attributes)))
            if self.spans[-1]:
                self.lines.open()
        elif tag in LINE_TAGS:
            self.lines.open()
        elif tag == "code" and not self.language:
            self.language = language_of(attributes)

    def close(self, tag: str) -> None:
        if tag == "a":
            self.in_link -= 1
        elif tag in ("td", "th"):
            self.cells -= 1
        elif (self.spans.pop() if tag == "span" and self.spans else tag in LINE_TAGS) and self.lines.starts:
            self.lines.close()

    def is_left_out(self, index: int, tag: str, attributes: str) -> bool:
        """Whether the element at `index` is a button or line numbers."""
        if tag in SKIPPED_TAGS or tag in ("button", "select", "clipboard-copy"):
            return True
        if index < self.checked or _is_plain(attributes):
            return False
        number = NUMBER_DATA.search(attributes)
        if role(attributes) & NUMBERS:
            self.checked = end_of(self.tokens, index)
            found = only_numbers(self.tokens, index, self.checked)
            self.numbered |= found
            return found
        if number and tag in ("td", "span", "a"):
            self.checked = end_of(self.tokens, index)
            return "".join(token[0] for token in self.tokens[index + 1 : self.checked + 1]).strip() == number[1]
        return any(COPY.search(name) for name in classes(attributes))


def code_text(tokens: Tokens, start: int, end: int) -> tuple[str, int, str] | None:
    """Text, number of linked characters and language of the code in the element from `start` to `end`, escaped.

    None if headings, paragraphs or page parts are inside: then it is text.
    """
    inside = tokens[start + 1 : end]
    tags = {token[5] for token in inside}
    if not PROSE_TAGS.isdisjoint(tags):
        return None
    if tags <= PLAIN_TAGS and all(map(_is_plain, {token[6] for token in inside})):
        language = next((language_of(token[6]) for token in inside if token[5] == "code"), "") if "code" in tags else ""
        return "".join([token[0] for token in inside]) + tokens[end][0], 0, language
    code = _Code(tokens, start)
    after = start
    for index in range(start + 1, end + 1):
        if index <= after:
            continue
        text, raw_tag, _, _, slash, tag, attributes = tokens[index]
        if text:
            code.text(text, tag)
        if index == end or raw_tag or not tag:
            continue
        if slash:
            code.close(tag)
        elif tag in ("br", "hr"):
            code.lines.text("\n")
        elif tag in VOID_TAGS:
            continue
        elif code.is_left_out(index, tag, attributes):
            after = end_of(tokens, index)
        else:
            code.open(tag, attributes)
    text = "".join(code.lines.parts)
    if code.numbered and all(line.startswith((" ", "&nbsp;")) for line in text.split("\n") if line):
        text = SPACE.sub("", text)  # between the number and the line
    return text, code.linked, code.language
