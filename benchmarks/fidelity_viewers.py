"""Code as the viewers of the web show it, written from their documentation, and a page around it."""

from __future__ import annotations

import html
from collections.abc import Callable

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

NAVIGATION = "".join(
    f'<li><a href="/{name}">{name}</a></li>' for name in ("Home", "Guide", "Reference", "Blog", "About")
)
PROSE = (
    "The module below is shown as it is in the repository. It is read from top to bottom: first what it imports, then "
    "its constants, then its functions. Each function does one thing, and those that are called by others come first. "
)


def page_of(viewer: str, title: str) -> str:
    """A page of documentation around the code."""
    return (
        f'<!DOCTYPE html><html lang="en"><head><title>{title}</title></head><body><nav><ul>{NAVIGATION}</ul></nav>'
        f"<main><article><h1>{title}</h1><p>{PROSE}</p>{viewer}<p>{PROSE}</p></article></main>"
        f'<footer class="footer"><p>© 2026 The authors. <a href="/privacy">Privacy</a></p></footer></body></html>'
    )


def _lines(code: str) -> list[str]:
    return [html.escape(line) for line in code.rstrip("\n").split("\n")]


def _pygments(**options: object) -> Callable[[str], str]:
    return lambda code: str(highlight(code, PythonLexer(), HtmlFormatter(**options)))


def _each(before: str, line: str, after: str, between: str = "") -> Callable[[str], str]:
    """A viewer with markup for each line, with `{line}` and `{number}`."""

    def view(code: str) -> str:
        made = [line.format(line=text, number=number) for number, text in enumerate(_lines(code), 1)]
        return before + between.join(made) + after

    return view


def _hexo(code: str) -> str:
    lines = _lines(code)
    numbers = "".join(f'<span class="line">{number}</span><br>' for number in range(1, len(lines) + 1))
    text = "".join(f'<span class="line">{line}</span><br>' for line in lines)
    return (
        f'<figure class="highlight python"><table><tr><td class="gutter"><pre>{numbers}</pre></td>'
        f'<td class="code"><pre>{text}</pre></td></tr></table></figure>'
    )


def _syntax_highlighter(code: str) -> str:
    lines = [line.replace("    ", "&nbsp;&nbsp;&nbsp;&nbsp;") or "&nbsp;" for line in _lines(code)]
    numbers = "".join(f'<div class="line number{number}">{number}</div>' for number in range(1, len(lines) + 1))
    text = "".join(
        f'<div class="line number{number}"><code>{line}</code></div>' for number, line in enumerate(lines, 1)
    )
    return (
        f'<div class="syntaxhighlighter python"><table><tbody><tr><td class="gutter">{numbers}</td>'
        f'<td class="code"><div class="container">{text}</div></td></tr></tbody></table></div>'
    )


def _breaks(code: str) -> str:
    return "<p><code>" + "<br>".join(line.replace("  ", "&nbsp;&nbsp;") for line in _lines(code)) + "</code></p>"


VIEWERS: dict[str, Callable[[str], str]] = {
    "pre": lambda code: f"<pre>{html.escape(code)}</pre>",
    "pre code": lambda code: f'<pre><code class="language-python">{html.escape(code)}</code></pre>',
    "Pygments": _pygments(),
    "Pygments, table of numbers": _pygments(linenos="table"),
    "Pygments, inline numbers": _pygments(linenos="inline"),
    "GitHub": _each(
        '<table class="highlight js-file-line-container"><tbody>',
        '<tr>\n<td id="L{number}" class="blob-num js-line-number" data-line-number="{number}"></td>\n'
        '<td id="LC{number}" class="blob-code blob-code-inner js-file-line">{line}</td>\n</tr>\n',
        "</tbody></table>",
    ),
    "highlight.js, numbers": _each(
        '<pre><code class="hljs language-python"><table class="hljs-ln"><tbody>',
        '<tr><td class="hljs-ln-line hljs-ln-numbers" data-line-number="{number}"><div class="hljs-ln-n" '
        'data-line-number="{number}"></div></td><td class="hljs-ln-line hljs-ln-code" data-line-number="{number}">'
        "{line}</td></tr>",
        "</tbody></table></code></pre>",
    ),
    "Shiki": _each('<pre class="shiki"><code>', '<span class="line"><span>{line}</span></span>', "</code></pre>", "\n"),
    "lines without breaks": _each("<pre><code>", '<span class="token-line">{line}</span>', "</code></pre>"),
    "Hexo": _hexo,
    "SyntaxHighlighter": _syntax_highlighter,
    "list in pre": _each("<pre><ol>", "<li>{line}</li>", "</ol></pre>"),
    "white-space: pre": _each('<div style="white-space:pre">', '<div class="line">{line}</div>', "</div>"),
    "Doxygen": _each(
        '<div class="fragment">',
        '<div class="line"><a id="l{number}"></a><span class="lineno">{number}</span>{line}</div>\n',
        "</div>",
    ),
    "CodeMirror": _each(
        '<div class="CodeMirror-code">', '<div><pre class="CodeMirror-line"><span>{line}</span></pre></div>', "</div>"
    ),
    "inline code with breaks": _breaks,
}  # fmt: skip
