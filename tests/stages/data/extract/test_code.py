"""Code of pages: its lines and indentation, without line numbers and buttons, with its language."""

from __future__ import annotations

import pytest

from tests.stages.data.extract.markup import PROSE, markdown

LINES = "while x:\n\n    x -= 1"
CODE = f"```\n{LINES}\n```"


@pytest.mark.parametrize(
    "html",
    [
        f"<pre>{LINES}</pre>",
        "<pre>while x:<br><br>    x -= 1</pre>",
        "<pre>while x:<br>\n</pre>".replace("<br>\n", "<br><br>&nbsp; &nbsp; x -= 1\n"),
        "<pre><ol><li>while x:<li><li>    x -= 1</ol></pre>",
        "<pre><ol>\n <li><span>while x:</span></li>\n <li></li>\n <li>    x -= 1</li>\n</ol></pre>",
        "<pre><code><span class=line>while x:</span>\n<span class=line></span>\n<span class=line>    x -= 1"
        "</span></code></pre>",
        "<pre><code><span class=line>while x:</span><span class=line></span><span class=line>    x -= 1"
        "</span></code></pre>",
        "<pre><span class=line>while x:</span><br><span class=line></span><br><span class=line>    x -= 1"
        "</span><br></pre>",
        "<pre><span class=line><span class=cl>while x:\n</span></span><span class=line><span class=cl>\n</span></span>"
        "<span class=line><span class=cl>    x -= 1\n</span></span></pre>",
        "<pre><div class=line>while x:</div><div class=line></div><div class=line>    x -= 1</div></pre>",
        "<pre><span class=lineno>1</span>while x:\n<span class=lineno>2 </span>\n<span class=lineno>3"
        "</span>    x -= 1</pre>",
        "<div class=fragment><div class=line><span class=lineno>    1</span>&nbsp;while x:</div>"
        "<div class=line><span class=lineno>    2</span>&nbsp;</div><div class=line>"
        "<span class=lineno>    3</span>&nbsp;    x -= 1</div></div>",
        "<div class=dp-highlighter><ol class=dp-py><li class=alt><span>while x:</span></li><li><span>"
        "</span></li><li>    x -= 1</li></ol></div>",
        f"<pre><button class=copy>Copy</button>{LINES}<div class=copy-button>Copy</div></pre>",
        "<div style='color:red; white-space:pre'><div>while x:</div><div></div><div>    x -= 1</div></div>",
        f"<div style='white-space: pre-wrap; font-family: monospace'>{LINES}</div>",
        "<div class=fragment>\n<div class=line>while x:</div>\n<div class=line></div>\n"
        "<div class=line>    x -= 1</div></div>",
        "<div class=CodeMirror-code><div><pre>while x:</pre></div><div><pre></pre></div><div>"
        "<pre>    x -= 1</pre></div></div>",
        "<table class=highlight><tbody><tr><td class=blob-num data-line-number=1></td><td class=blob-code>while x:</td>"
        "</tr>\n<tr><td class=blob-num data-line-number=2></td><td class=blob-code></td></tr>\n"
        "<tr><td class=blob-num data-line-number=3></td><td class=blob-code>    x -= 1</td></tr></table>",
        "<table class=hljs-ln><tr><td class=hljs-ln-numbers><div data-line-number=1></div></td>"
        "<td class=hljs-ln-code>while x:</td></tr>"
        "<tr><td class=hljs-ln-numbers></td><td class=hljs-ln-code></td></tr>"
        "<tr><td class=hljs-ln-numbers></td><td class=hljs-ln-code>    x -= 1</td></tr></table>",
        f"<table class=highlighttable><tr><td class=linenos><div class=linenodiv><pre>1\n2\n3</pre></div></td>"
        f"<td class=code><div class=highlight><pre>{LINES}\n</pre></div></td></tr></table>",
        "<figure class=highlight><table><tr><td class=gutter><pre><span class=line>1</span><br>"
        "<span class=line>2</span><br>"
        "</pre></td><td class=code><pre><span class=line>while x:</span><br><span class=line></span><br>"
        "<span class=line>    x -= 1</span><br></pre></td></tr></table></figure>",
        f"<div class=box><pre class=line-numbers>1\n2\n3</pre><pre>{LINES}</pre></div>",
        "<table><tr><td class=gutter><div class=line>1</div><div class=line>2</div><div class=line>3</div>"
        "</td><td class=code>"
        "<div class=container><div class=line>while x:</div><div class=line></div>"
        "<div class=line>&nbsp;&nbsp;&nbsp; x -= 1</div>"
        "</div></td></tr></table>",
        "<code style='display:block; white-space:pre'>while x:\n\n    x -= 1</code>",
    ],
)
def test_lines_of_code(html: str) -> None:
    assert markdown(f"<p>Text.</p>{html}<p>More.</p>") == f"Text.\n\n{CODE}\n\nMore."


def test_data_of_line_numbers_drops_no_signs() -> None:
    html = "<pre><span data-line=1>1</span>+--+\n<span data-line=2>...</span>\n<td data-line-number=3>|</td></pre>"
    assert markdown(html) == "```\n+--+\n...\n|\n```"


@pytest.mark.parametrize(
    ("html", "language"),
    [
        ("<pre><code class=language-python>x</code></pre>", "python"),
        ("<pre class='prettyprint lang-c++'>x</pre>", "c++"),
        ("<div class='highlight-rust notranslate'><div class=highlight><pre>x</pre></div></div>", "rust"),
        ("<div class='highlight highlight-source-shell'><pre>x</pre></div>", "shell"),
        ("<pre class='sourceCode haskell'><code>x</code></pre>", "haskell"),
        ("<pre class='brush: js; toolbar: false'>x</pre>", "js"),
        ("<pre data-lang=go>x</pre>", "go"),
        ("<pre><code class='hljs json'>x</code></pre>", "json"),
        (
            "<div class='language-ruby highlighter-rouge'><div class=highlight><pre class=highlight><code>x"
            "</code></pre></div></div>",
            "ruby",
        ),
        ("<div class='highlight-default notranslate'><pre>x</pre></div>", ""),
        ("<pre class=language-none>x</pre>", ""),
        ("<pre class=wide>x</pre>", ""),
        ("<figure class='highlight yaml'><pre>x</pre></figure>", "yaml"),
        ("<pre lang=python>x</pre>", "python"),
        ("<pre class='lang:php decode:true'>x</pre>", "php"),
        ("<pre class=Ruby><ol><li>x</ol></pre>", "ruby"),
        ("<div lang=en class=html><pre lang=de>x</pre></div>", ""),
        ("<div class=python><p>Text.</p><div><div><pre>x</pre></div></div></div>", None),
    ],
)
def test_language_of_a_fence(html: str, language: str | None) -> None:
    text = "" if language is not None else "Text.\n\n"
    assert markdown(html) == f"{text}```{language or ''}\nx\n```"


def test_fence_is_longer_than_the_backticks_inside() -> None:
    assert markdown("<pre>a\n````\n\tb</pre>") == "`````\na\n````\n\tb\n`````"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<code>a`b</code>", "``a`b``"),
        ("<code>`a`</code>", "`` `a` ``"),
        ("<code></code>x", "x"),
        ("<code>a</code> <code>b", "`a` `b`"),
        ("a <code>b<p>c</p></code>", "a b\n\nc"),
        ("<p>so <code>if x:<br>    y<br>\n&nbsp; &nbsp; z</code> it", "so\n\n```\nif x:\n    y\n    z\n```\n\nit"),
        ("<p>a <code><br><del></del></code> b", "a\n\nb"),
        ("<h2>so <code>a<br>b</code></h2>", "## so `a` `b`"),
        ("<table><tr><th>A<th>B<tr><td>1<td><code>a<br>b</code></table>", "| A | B |\n| --- | --- |\n| 1 | `a` `b` |"),
    ],
)
def test_inline_code(html: str, expected: str) -> None:
    assert markdown(html) == expected


def test_text_in_an_unclosed_pre_and_in_boxes_named_like_code_stays_text() -> None:
    assert markdown(f"<pre>a\n b<h2>Title</h2><p>{PROSE}</p>") == f"```\na\n b\n```\n\n## Title\n\n{PROSE.strip()}"
    assert markdown("<div class='fragment gutter'>Some <b>text</b>.</div>") == "Some text."
    assert markdown("<div class=highlight><p>Some text.</p></div>") == "Some text."
    assert markdown("<table><tr><th>Line<th class=gutter>No<tr><td>a<td>1</table>").startswith("| Line | No |")
