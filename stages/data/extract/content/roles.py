"""What class names and styles of elements say about the code and the formulas in them."""

from __future__ import annotations

import re
from functools import lru_cache

from longcat.stages.data.extract.content.hidden import hidden_by
from longcat.stages.data.extract.content.tags import words

# Bits of what an element is to code, a formula or a heading. Members of an enumeration would cost more than the rest of
# a tag.
CONTAINER = 1  # of code, keeps white space
LIKELY = 2  # the same if its first elements are lines
NUMBERS = 4  # of lines, if its text is only numbers
COPY = 8  # of the formula before it
PREVIEW = 16  # of the formula behind it
RENDERED = 32  # a formula as its output, with its source inside or behind it
EDIT = 64  # link to edit a section, in its heading
SOURCE = 128  # a formula as LaTeX without delimiters, if there are no elements inside
HIDDEN = 256  # inline elements only: not seen by readers, if short and without elements inside

KEEPS_SPACE = re.compile(r'\bstyle="[^"]*\bwhite-space:\s*(?:pre\s*[;!"]|pre-wrap\b[^"]*monospace)', re.I)
NUMBER_NAMES = words(
    "lineno linenos lineNumber lineNumbers linenumber linenumbers line-number line-numbers line_number "
    "line_numbers linenodiv line-num gutter gl blob-num diff-line-num hljs-ln-numbers hljs-ln-n "
    "rouge-gutter crayon-nums ln lnt CodeMirror-linenumber ace_gutter-cell react-line-number code-line-number "
    "linenums ln-num"
)
ROLE_NAMES = {
    # CodeMirror 5 and 6, Ace, Monaco, GitHub, Crayon, Enlighter, GeSHi, SyntaxHighlighter, also its first version
    CONTAINER: words(
        "CodeMirror-code cm-content ace_text-layer view-lines react-code-lines crayon-pre enlighter geshi "
        "syntaxhighlighter dp-c dp-cpp dp-css dp-j dp-js dp-py dp-rb dp-sh dp-sql dp-vb dp-xml"
    ),
    # As in Doxygen; other sites use these names for prose.
    LIKELY: words("fragment code codeblock code-block highlight highlighter"),
    NUMBERS: NUMBER_NAMES,
    # KaTeX, MathJax 2
    COPY: words("katex-html"),
    PREVIEW: words("MathJax_Preview"),
    RENDERED: words(
        "MathJax MathJax_Display MathJax_SVG MathJax_SVG_Display MathJax_CHTML MathJax_CHTML_Display "
        "mjx-chtml MJXc-display"
    ),
    # Pandoc's spans for KaTeX, with `inline` or `display`
    SOURCE: words("math"),
    # MediaWiki
    EDIT: words("mw-editsection editsection"),
}
NAMES = frozenset[str]().union(*ROLE_NAMES.values())


def classes(attributes: str) -> list[str]:
    """Class names of a start tag."""
    start = attributes.find(' class="')
    return attributes[start + 8 : attributes.find('"', start + 8)].split() if start >= 0 else []


def role(attributes: str) -> int:
    """Roles by class names and style."""
    start = attributes.find(' class="')
    found = _role_of_names(attributes[start + 8 : attributes.find('"', start + 8)]) if start >= 0 else 0
    if ' data-tex="' in attributes or ' data-latex="' in attributes:
        found |= RENDERED
    if "white-space" in attributes and KEEPS_SPACE.search(attributes):
        found |= CONTAINER
    return found


def inline_role(attributes: str) -> int:
    """Roles of an inline element; what `aria-hidden` hides is often in view, beside the same for screen readers."""
    found = role(attributes)
    return found | HIDDEN if hidden_by("", attributes) not in ("", "aria-hidden") else found


@lru_cache(maxsize=1 << 12)
def _role_of_names(names: str) -> int:
    split = names.split()
    found = 0
    if not NAMES.isdisjoint(split):
        for named, known in ROLE_NAMES.items():
            if not known.isdisjoint(split):
                found |= named
        if found & SOURCE and "inline" not in split and "display" not in split:
            found -= SOURCE
    return found
