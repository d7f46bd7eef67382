"""Formulas of a page as LaTeX: annotations of KaTeX, MathJax and wikis, presentation MathML, and images of formulas."""

from __future__ import annotations

import html
import re
from urllib.parse import unquote

from longcat.stages.data.extract.content.mathml import presentation

ANNOTATION = re.compile(
    r'<annotation\b[^>]*encoding="(?:application/x-tex|TeX|LaTeX|text/x-tex)"[^>]*>(.*?)</annotation>', re.S | re.I
)
ALTERNATIVE = re.compile(r'^<math\b(?:[^>"]|"[^"]*")*?\balttext="([^"]*)"')
DISPLAY = re.compile(r'^<math\b(?:[^>"]|"[^"]*")*?\b(?:display="block"|mode="display")')
DISPLAY_STYLE = re.compile(r"^\{\\(?:display|text)style\s*(.*)\}$", re.S)
PREFIX = re.compile(r"<(/?)[A-Za-z][\w.-]*:")
MATH = re.compile(r"<((?:[\w-]+:)?math)\b.*?</\1>", re.S)
STATED_MATHML = re.compile(r'\bdata-mathml="([^"]*)"')
STATED_LATEX = re.compile(r'\bdata-(?:latex|tex|mathlatex|formula)="([^"]+)"')
MAX_MATH_CHARACTERS = 20_000

# Images have one of these in their attributes before it is worth while to look closer.
IMAGE_HINTS = ("tex", "TeX", "ath", "ormula", "quation", "cht=tx")
IMAGE_CLASSES = re.compile(
    r'\bclass="[^"]*(?<![\w-])(?:latex\w*|tex|math|texrender|mwe-math-fallback-image-(?:inline|display)|ql-[\w-]+-formula'
    r'|math-?(?:image|img|tex|inline|display)|formula|equation(?:-image)?|wp-katex|eq)(?![\w-])',
    re.I,
)  # fmt: skip
IMAGE_SOURCES = re.compile(
    r'\bsrc="[^"]*(?:latex\.php\?|latex\.codecogs|codecogs\.com/|(?:math|mime)tex\.cgi|/equation\?tex=|/math/render/'
    r"|[?&;]cht=tx\b|/render/math\?|/_images/math/|/tex\.s2cms|quicklatex)",
    re.I,
)
IMAGE_DISPLAY = re.compile(r'\bclass="[^"]*display')
ALT = re.compile(r'\balt="([^"]*)"')
QUERY = re.compile(
    r'\bsrc="[^"?]*codecogs\.com/[^"?]*\?([^"]+)"|\bsrc="[^"?]*(?:math|mime)tex\.cgi\?([^"]+)"'
    r'|\bsrc="[^"?]*\?(?:[^"]*&(?:amp;)?)?(?:latex|tex|math|chl)=([^"&]+)'
)
# Delimiters of formulas in descriptions: source, and whether the formula is displayed.
DELIMITERS = (
    (re.compile(r"\$\$(.*)\$\$$", re.S), True), (re.compile(r"\\\[(.*)\\\]$", re.S), True),
    (re.compile(r"\$(?:latex\s)?(.*)\$$", re.S), False), (re.compile(r"\\\((.*)\\\)$", re.S), False),
    (re.compile(r"\[(?:latex|tex|math)\](.*)\[/(?:latex|tex|math)\]$", re.S | re.I), False),
    (re.compile(r"<(?:math|tex)>(.*)</(?:math|tex)>$", re.S), False),
)  # fmt: skip
# Size and colours of images, before or after the source.
SETTINGS = re.compile(
    r"^(?:\\(?:dpi|bg|fg|fn|color)_?(?:\{[^}]*\}|\w+)\s*|\\(?:inline|large|Large|LARGE|huge|small)(?![A-Za-z])\s*)+"
)
SIGNS = frozenset("\\^_{}=<>+/")
FEW_CHARACTERS = 3


def latex_of_math(markup: str) -> str:
    """A whole `<math>` element as `$...$`, displayed ones as `$$...$$`; empty for an empty one."""
    markup = markup[:MAX_MATH_CHARACTERS]
    if ":math" in markup[:40]:
        markup = PREFIX.sub(r"<\1", markup)
    if found := ANNOTATION.search(markup) or ALTERNATIVE.match(markup):
        source = _plain_style(html.unescape(found[1]))
    else:
        source = presentation(markup)
    return quoted(source, displayed=bool(DISPLAY.match(markup)))


def tex_of_script(attributes: str, source: str) -> str:
    """A MathJax source, `<script type="math/tex">`, in dollars; MathML sources go through `latex_of_math`.

    AsciiMath is written between backticks, its own delimiters.
    """
    source = source.strip()
    if "math/mml" in attributes:
        return latex_of_math(source)
    if "math/asciimath" in attributes:
        return f" `{_escaped(source)}` " if source else ""
    if "math/tex" not in attributes:
        return ""
    source = source.removeprefix("% <![CDATA[").removesuffix("%]]>").strip()
    source = source.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")  # as in XHTML
    return quoted(source, displayed="mode=display" in attributes)


def latex_of_rendered(markup: str) -> str:
    """The source stated within what MathJax rendered: assistive MathML, or an attribute; empty if there is none."""
    displayed = "isplay" in markup[: markup.find(">")]
    if found := STATED_LATEX.search(markup):
        return quoted(html.unescape(found[1]), displayed=displayed or 'display="true"' in markup)
    if found := MATH.search(markup):
        return latex_of_math(found[0])
    if found := STATED_MATHML.search(markup):
        return latex_of_math(html.unescape(found[1]))
    return ""


def latex_of_image(attributes: str) -> str:
    """The formula an `<img>` shows, by its description or address; empty for other images."""
    for hint in IMAGE_HINTS:
        if hint in attributes:
            break
    else:
        return ""
    by_source = IMAGE_SOURCES.search(attributes)
    if not by_source and not IMAGE_CLASSES.search(attributes):
        return ""
    found = ALT.search(attributes)
    source, displayed = _undelimited(html.unescape(found[1]) if found else "")
    if by_source and not source and (query := QUERY.search(attributes)):
        source = unquote(html.unescape(query[1] or query[2] or query[3].replace("+", " "))).strip()
    source = SETTINGS.sub("", source)
    if not by_source and len(source) > FEW_CHARACTERS and SIGNS.isdisjoint(source):
        return ""
    return quoted(source, displayed=displayed or bool(IMAGE_DISPLAY.search(attributes)))


def _undelimited(source: str) -> tuple[str, bool]:
    """Source of a formula without its delimiters, and whether they are those of a displayed one."""
    source = source.strip()
    for pattern, displayed in DELIMITERS:
        if found := pattern.match(source):
            return _plain_style(found[1]), displayed
    return _plain_style(source), False


def _plain_style(source: str) -> str:
    source = source.strip()
    return styled[1].strip() if (styled := DISPLAY_STYLE.match(source)) else source


def quoted(source: str, *, displayed: bool) -> str:
    """LaTeX between dollars, escaped as in the serialisation; empty for none."""
    source = " ".join(source.split())
    if not source:
        return ""
    return f" $${_escaped(source)}$$ " if displayed else f"${_escaped(source)}$"


def _escaped(source: str) -> str:
    """Serialised text is unescaped again when its block is finished."""
    return source.replace("&", "&amp;")
