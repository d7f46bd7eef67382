"""Formulas of a page as LaTeX: annotations that KaTeX, MathJax and wikis leave, else presentation MathML."""

from __future__ import annotations

import html
import re

ANNOTATION = re.compile(
    r'<annotation\b[^>]*encoding="(?:application/x-tex|TeX|LaTeX|text/x-tex)"[^>]*>(.*?)</annotation>', re.S | re.I
)
ALTERNATIVE = re.compile(r'^<math\b(?:[^>"]|"[^"]*")*?\balttext="([^"]*)"')
DISPLAY = re.compile(r'^<math\b(?:[^>"]|"[^"]*")*?\b(?:display="block"|mode="display")')
DISPLAY_STYLE = re.compile(r"^\{\\displaystyle\s*(.*)\}$", re.S)
NODE = re.compile(r"<(/?)([a-z]+)[^>]*>|([^<]+)")
SYMBOLS = {
    "∑": r"\sum", "∏": r"\prod", "∫": r"\int", "∞": r"\infty", "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "±": r"\pm",
    "×": r"\times", "⋅": r"\cdot", "→": r"\to", "∈": r"\in", "∂": r"\partial", "∇": r"\nabla", "√": r"\sqrt",
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\epsilon", "θ": r"\theta", "λ": r"\lambda",
    "μ": r"\mu", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "φ": r"\phi", "ω": r"\omega",
    "Δ": r"\Delta", "Σ": r"\Sigma", "Ω": r"\Omega", "\u2061": "", "\u2062": "", "\u2212": "-",
}  # fmt: skip
MAX_MATH_CHARACTERS = 20_000
MAX_DEPTH = 60


def latex_of_math(markup: str) -> str:
    """A whole `<math>` element as `$...$`, displayed ones as `$$...$$`; nothing for an empty one."""
    markup = markup[:MAX_MATH_CHARACTERS]
    if found := ANNOTATION.search(markup) or ALTERNATIVE.match(markup):
        source = html.unescape(found[1]).strip()
        source = styled[1].strip() if (styled := DISPLAY_STYLE.match(source)) else source
    else:
        source = _presentation(markup)
    return _quoted(source, displayed=bool(DISPLAY.match(markup)))


def tex_of_script(attributes: str, source: str) -> str:
    """A MathJax source, `<script type="math/tex">`, in dollars; MathML sources go through `latex_of_math`."""
    if "math/mml" in attributes:
        return latex_of_math(source.strip())
    if "math/tex" not in attributes:
        return ""
    return _quoted(
        source.removeprefix("% <![CDATA[").removesuffix("%]]>").strip(), displayed="mode=display" in attributes
    )


def _quoted(source: str, *, displayed: bool) -> str:
    source = " ".join(source.split())
    if not source:
        return ""
    # Serialised text is unescaped once more when its block is finished.
    source = source.replace("&", "&amp;")
    return f" $${source}$$ " if displayed else f"${source}$"


def _presentation(markup: str) -> str:
    """LaTeX of presentation MathML: rows, scripts, fractions, roots, fences; other elements give their content."""
    stack: list[tuple[str, list[str]]] = [("math", [])]
    for slash, tag, text in NODE.findall(markup):
        if text:
            if text.strip():
                characters = html.unescape(text).strip()
                stack[-1][1].append("".join(_symbol(character) for character in characters))
        elif not slash:
            if len(stack) < MAX_DEPTH:
                stack.append((tag, []))
        elif len(stack) > 1 and stack[-1][0] == tag:
            _, children = stack.pop()
            stack[-1][1].append(_element(tag, children))
    while len(stack) > 1:
        tag, children = stack.pop()
        stack[-1][1].append(_element(tag, children))
    return " ".join("".join(stack[0][1]).split())


def _symbol(character: str) -> str:
    name = SYMBOLS.get(character)
    return character if name is None else f"{name} " if name.startswith("\\") else name


def _element(tag: str, children: list[str]) -> str:
    get = [*children, "", "", ""]
    if tag == "mfrac":
        return rf"\frac{{{get[0]}}}{{{get[1]}}}"
    if tag == "msqrt":
        return rf"\sqrt{{{''.join(children)}}}"
    if tag == "mroot":
        return rf"\sqrt[{get[1]}]{{{get[0]}}}"
    if tag in ("msup", "mover"):
        return f"{get[0]}^{{{get[1]}}}"
    if tag in ("msub", "munder"):
        return f"{get[0]}_{{{get[1]}}}"
    if tag in ("msubsup", "munderover"):
        return f"{get[0]}_{{{get[1]}}}^{{{get[2]}}}"
    if tag == "mtd":
        return "".join(children) + " & "
    if tag == "mtr":
        return "".join(children).removesuffix(" & ") + r" \\ "
    if tag == "mtable":
        return r"\begin{matrix}" + "".join(children).removesuffix(r" \\ ") + r"\end{matrix}"
    if tag == "mtext":
        return rf"\text{{{''.join(children)}}}" if children else ""
    if tag in ("annotation", "annotation-xml"):
        return ""
    return "".join(children)
