"""LaTeX of presentation MathML (MathML Core and MathML 3, chapter 3)."""

from __future__ import annotations

import html
import re

from longcat.stages.data.extract.content.symbols import (
    ACCENTS,
    ACCENTS_BELOW,
    FUNCTIONS,
    LARGE_OPERATORS,
    LONG_ARROWS,
    VARIANTS,
    symbol,
)

NODE = re.compile(r"<(/?)([a-z][\w-]*)([^>]*)>|([^<]+)")
ATTRIBUTE = re.compile(r'\b([a-z]+)="([^"]*)"')
TEXTS = frozenset(("mi", "mn", "mo", "mtext", "ms"))
# Without content; in markup with a prefix, which HTML does not know, they are not closed where they should be.
EMPTY = frozenset(("mspace", "mprescripts", "none", "mglyph", "malignmark", "maligngroup"))
COMMAND = re.compile(r"\\[A-Za-z]+$")
ATOM = re.compile(r"(?:[^\\^_{}]|\\[A-Za-z]+|\\.)$")
PRIMES = frozenset(("'", "''", "'''"))
PRESCRIPTS = "\x00"
MATRIX, MATRIX_END, ROW_END = r"\begin{matrix}", r"\end{matrix}", r" \\ "
MATRICES = {("(", ")"): "pmatrix", ("[", "]"): "bmatrix", ("|", "|"): "vmatrix", (r"\{", ""): "cases"}
ATOP = re.compile(r"\{(.*) \\atop (.*)\}$", re.S)
# Accents that are also operators.
SIGNS = {symbol(sign): sign for sign in "→←↔∼_⇀"}
ENCLOSURES = {
    "box": r"\boxed",
    "roundedbox": r"\boxed",
    "radical": r"\sqrt",
    "top": r"\overline",
    "bottom": r"\underline",
}
MAX_DEPTH = 60
Node = tuple[str, str, list[str]]  # tag, attributes, LaTeX of the children


def presentation(markup: str) -> str:
    """LaTeX of the children of a `<math>` element; elements without an equivalent are replaced by their content."""
    stack: list[Node] = [("math", "", [])]
    for slash, tag, attributes, text in NODE.findall(markup):
        if text:
            if stack[-1][0] in TEXTS:
                stack[-1][2].append(html.unescape(text))
            elif not text.isspace():
                stack[-1][2].append(_join([symbol(character) for character in html.unescape(text).strip()]))
        elif tag in EMPTY:
            if not slash:
                stack[-1][2].append(_empty(tag, attributes))
        elif not slash:
            if len(stack) < MAX_DEPTH:
                stack.append((tag, attributes, []))
        elif len(stack) > 1 and stack[-1][0] == tag:
            _finish(stack)
    while len(stack) > 1:
        _finish(stack)
    return " ".join(_join(stack[0][2]).split())


def _finish(stack: list[Node]) -> None:
    tag, attributes, children = stack.pop()
    stack[-1][2].append(_element(tag, dict(ATTRIBUTE.findall(attributes)), children))


def _join(parts: list[str]) -> str:
    """Parts one after the other, with a blank where a command would run into a letter."""
    out: list[str] = []
    for part in parts:
        if not part:
            continue
        if out and part[0].isalpha() and COMMAND.search(out[-1]):
            out.append(" ")
        out.append(part)
    return "".join(out)


def _braced(source: str) -> str:
    """An argument; braces may be left out around one character or command."""
    return source if ATOM.match(source) else f"{{{source}}}"


def _base(source: str) -> str:
    """What a script is put at; braces keep it from having two."""
    return f"{{{source}}}" if "^" in source or "_" in source or not source else source


def _scripts(base: str, below: str, above: str) -> str:
    base = _base(base)
    below = f"_{_braced(below)}" if below else ""
    if above in PRIMES:
        return base + above + below
    return base + below + (f"^{_braced(above)}" if above else "")


def _empty(tag: str, attributes: str) -> str:
    if tag == "mprescripts":
        return PRESCRIPTS
    if tag != "mspace":
        return ""
    values = dict(ATTRIBUTE.findall(attributes))
    if values.get("linebreak") == "newline":
        return ROW_END
    width = re.match(r"\s*([\d.]+)\s*em", values.get("width", ""))
    try:
        size = float(width[1]) if width else 0.0
    except ValueError:
        return ""
    return r"\qquad " if size >= 2 else r"\quad " if size >= 1 else r"\ " if size > 0.2 else ""


def _element(tag: str, attributes: dict[str, str], children: list[str]) -> str:
    if tag in TEXTS:
        return _text(tag, attributes, "".join(children))
    get = [*children, "", "", ""]
    if tag == "mfrac":
        if attributes.get("linethickness", "").startswith("0"):
            return rf"{{{get[0]} \atop {get[1]}}}"
        return rf"\frac{{{get[0]}}}{{{get[1]}}}"
    if tag == "msqrt":
        return rf"\sqrt{{{_join(children)}}}"
    if tag == "mroot":
        return rf"\sqrt[{get[1]}]{{{get[0]}}}"
    if tag in ("msup", "msub", "msubsup"):
        below, above = {"msup": ("", get[1]), "msub": (get[1], "")}.get(tag, (get[1], get[2]))
        return _scripts(get[0], below, above)
    if tag in ("munder", "mover", "munderover"):
        below, above = {"mover": ("", get[1]), "munder": (get[1], "")}.get(tag, (get[1], get[2]))
        return _limits(get[0], below, above)
    if tag == "mmultiscripts":
        return _multiscripts(children)
    if tag == "menclose":
        return _enclosed(attributes.get("notation", "longdiv"), _join(children))
    if tag == "mfenced":
        return _fenced(attributes, children)
    return _grouping(tag, children)


def _grouping(tag: str, children: list[str]) -> str:
    """Tables, and elements that stand for their content."""
    if tag == "mtd":
        return _join(children) + " & "
    if tag in ("mtr", "mlabeledtr"):
        cells = children[1:] if tag == "mlabeledtr" else children
        return "".join(cells).removesuffix(" & ") + ROW_END
    if tag == "mtable":
        return MATRIX + "".join(children).removesuffix(ROW_END) + MATRIX_END
    if tag == "mphantom":
        return rf"\phantom{{{_join(children)}}}"
    if tag in ("semantics", "maction"):
        return children[0] if children else ""
    if tag in ("annotation", "annotation-xml"):
        return ""
    return _row(children)


def _row(children: list[str]) -> str:
    """A row; matrices and binomials take the fences around them."""
    parts = [child for child in children if child.strip()]
    if parts and len(parts) < 4:
        fences = parts[0], parts[2] if len(parts) == 3 else ""
        inside = parts[1] if len(parts) > 1 else ""
        if inside.startswith(MATRIX) and inside.endswith(MATRIX_END) and (name := MATRICES.get(fences)):
            return rf"\begin{{{name}}}{inside[len(MATRIX) : -len(MATRIX_END)]}\end{{{name}}}"
        if fences == ("(", ")") and (found := ATOP.match(inside)):
            return rf"\binom{{{found[1]}}}{{{found[2]}}}"
    return _join(children)


def _text(tag: str, attributes: dict[str, str], text: str) -> str:
    plain = text.strip()
    if tag in ("mtext", "ms"):
        text = " ".join(text.split(" ")) if text.strip() else ""
        escaped = "".join(rf"\{sign}" if sign in "{}%#$&_" else sign for sign in text)
        quote = '"' if tag == "ms" else ""
        return rf"\text{{{quote}{escaped}{quote}}}" if text else ("" if tag == "ms" or not plain else r"\ ")
    if tag in ("mi", "mo") and plain in FUNCTIONS:
        return "\\" + plain
    variant = attributes.get("mathvariant", "")
    if tag == "mi" and len(plain) > 1 and plain.isascii() and plain.isalpha():
        return f"{VARIANTS.get(variant) or VARIANTS['normal']}{{{plain}}}"
    source = _join([symbol(character) for character in plain])
    if variant in VARIANTS and plain.isascii() and plain.isalnum():
        return f"{VARIANTS[variant]}{{{source}}}"
    return source


def _limits(base: str, below: str, above: str) -> str:
    """Signs above and below: accents, limits of large operators, texts over arrows, else `overset`, `underset`."""
    base = base.strip()
    if base in LARGE_OPERATORS or base.startswith((r"\underbrace", r"\overbrace")):
        return _scripts(base, below, above) if base in LARGE_OPERATORS else _at_brace(base, below, above)
    if base in LONG_ARROWS and above:
        return LONG_ARROWS[base] + (f"[{below}]" if below else "") + f"{{{above}}}"
    if above:
        name = ACCENTS.get(_sign(above))
        base = f"{name[not ATOM.match(base)]}{{{base}}}" if name else rf"\overset{{{above}}}{{{base}}}"
    if below:
        under = ACCENTS_BELOW.get(_sign(below))
        base = f"{under}{{{base}}}" if under else rf"\underset{{{below}}}{{{base}}}"
    return base


def _at_brace(base: str, below: str, above: str) -> str:
    return base + (f"_{{{below}}}" if below else "") + (f"^{{{above}}}" if above else "")


def _sign(source: str) -> str:
    """The sign of an accent from its LaTeX."""
    source = source.strip()
    return SIGNS.get(source, source)


def _multiscripts(children: list[str]) -> str:
    """Scripts after the base and, behind `mprescripts`, before it."""
    at = children.index(PRESCRIPTS) if PRESCRIPTS in children else len(children)
    base, after, before = (children or [""])[0], children[1:at], children[at + 1 :]
    text = ""
    for start in range(0, len(before), 2):
        text += _scripts("", before[start], before[start + 1] if start + 1 < len(before) else "")
    text += base
    for number, start in enumerate(range(0, len(after), 2)):
        above = after[start + 1] if start + 1 < len(after) else ""
        scripts = _scripts("", after[start], above).removeprefix("{}")
        text += ("{}" if number else "") + scripts
    return text


def _enclosed(notation: str, content: str) -> str:
    if "strike" in notation:
        return rf"\cancel{{{content}}}"
    name = next((ENCLOSURES[word] for word in notation.split() if word in ENCLOSURES), None)
    return f"{name}{{{content}}}" if name else content


def _fenced(attributes: dict[str, str], children: list[str]) -> str:
    def signs(text: str) -> str:
        return _join([symbol(sign) for sign in html.unescape(text).strip()])

    marks = "".join(html.unescape(attributes.get("separators", ",")).split())
    parts = [signs(attributes.get("open", "("))]
    for number, child in enumerate(children):
        if number and marks:
            parts.append(symbol(marks[min(number, len(marks)) - 1]))
        parts.append(child)
    parts.append(signs(attributes.get("close", ")")))
    return _row(parts)
