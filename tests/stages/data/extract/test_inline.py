"""Inline elements: which break the text, and what of their meaning is written."""

from __future__ import annotations

import pytest

from tests.stages.data.extract.markup import markdown


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (
            "<p>Press <key-cap>Ctrl</key-cap> for <x-tip title=t>help</x-tip>, sent <time-ago>May 3</time-ago>.</p>",
            "Press Ctrl for help, sent May 3.",
        ),
        ("<my-page><my-part><p>one</p><div>two</div></my-part></my-page>three", "one\n\ntwo\n\nthree"),
        ("<a-page><a-card>One</a-card><a-card>Two</a-card>a<a-card>b</a-card></a-page>", "One Twoab"),
        ("<p><an-emoji>👍</an-emoji><an-emoji>🎉</an-emoji></p>", "👍🎉"),
        ("<p>a <b>b</b><unknown>c</unknown></p>", "a bc"),
        ("<x-a><template shadowrootmode=open><p>In the <slot></slot></p></template>light</x-a>", "In the\n\nlight"),
        ("<p>shown<template><p>not shown</p></template></p>", "shown"),
        (
            "<p>su\u00adper<wbr>man <abbr title=t>HTML</abbr> <ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby></p>",
            "su\u00adperman HTML 漢",
        ),
    ],
    ids=["custom", "custom-with-blocks", "cards", "signs", "unknown", "shadow", "template", "small"],
)
def test_which_elements_break_the_text(html: str, expected: str) -> None:
    assert markdown(html) == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("3 × 10<sup>8</sup> m, 10<sup>-31</sup> kg", "3 × 10^{8} m, 10^{-31} kg"),
        ("H<sub>2</sub>O, x<sub>1</sub><sup>2</sup>, e<sup>x<sup>2</sup></sup>", "H_{2}O, x_{1}^{2}, e^{x^{2}}"),
        ("2<sup><i>n</i> + 1</sup> &lt; 3", "2^{n + 1} < 3"),
        ("a word<sup>[1]</sup>", "a word[1]"),
        ('a word<sup id=r><a href="#n">12</a></sup> and<sup><a href="#m">[b]</a></sup>', "a word[12] and[b]"),
        ("the 1<sup>st</sup>, 22<sup>nd</sup>, XIX<sup>e</sup>, M<sup>me</sup>", "the 1st, 22nd, XIXe, Mme"),
        ("Brand<sup>TM</sup> Name<sup>®</sup>", "Brand™ Name®"),
        ("<sup>1</sup> A note", "1 A note"),
        ("Text <sub>" + "in small print " * 5 + "</sub>", "Text " + ("in small print " * 5).strip()),
        ("x<sup></sup>y<sub> </sub>z", "xy z"),
        ("<sup>a<p>b</sup>", "a\n\nb"),
    ],
    ids=["powers", "nested", "terms", "bracketed", "notes", "ordinals", "marks", "start", "long", "empty", "across"],
)
def test_superscripts_and_subscripts(html: str, expected: str) -> None:
    assert markdown(f"<p>{html}</p>") == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("was <del>$20</del> <ins>$15</ins>", "was ~~$20~~ $15"),
        ("<s> old </s>new <strike>x</strike>", "~~old~~ new ~~x~~"),
        ("<del></del>x", "x"),
        ("<del><p>one</p><p>two</p></del><p>three</p>", "~~one~~\n\n~~two~~\n\nthree"),
        (
            "press <kbd><kbd>Ctrl</kbd>+<kbd>C</kbd></kbd>, <samp>ok</samp> <tt>t</tt> <var>v</var>",
            "press `Ctrl+C`, `ok` `t` v",
        ),
        ("<code>f<sup>2</sup></code>", "`f^{2}`"),
    ],
    ids=["del", "strike", "empty", "blocks", "keys", "script-in-code"],
)
def test_deletions_and_code(html: str, expected: str) -> None:
    assert markdown(html) == expected


@pytest.mark.parametrize(
    ("language", "expected"),
    [("", "“a ‘b’ c”"), ("en-GB", "“a ‘b’ c”"), ("de", "„a ‚b‘ c“"), ("fr-CA", "«a «b» c»"), ("ja", "「a 『b』 c」")],
)
def test_quotations(language: str, expected: str) -> None:
    assert markdown(f"<html lang='{language}'><p><q>a <q>b</q> c</q></p>") == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<ol start=5><li>a<li>b</ol>", "5. a\n6. b"),
        ("<ol start=0><li>a<li>b</ol>", "0. a\n1. b"),
        ("<ol start=-1><li>a<li>b</ol>", "-1. a\n0. b"),
        ("<ol><li><pre>x = 1</pre><li>b</ol>", "1.\n```\nx = 1\n```\n\n2. b"),
        ("<ol reversed><li>a<li>b<li>c</ol>", "3. a\n2. b\n1. c"),
        ("<ol reversed start=9><li>a<li>b</ol>", "9. a\n8. b"),
        ("<ol><li>a<li value=7>b<li>c</ol>", "1. a\n7. b\n8. c"),
        ("<ol type=a start=x><li>a<li>b</ol>", "1. a\n2. b"),
        ("<ol reversed><li>a<ol><li>x<li>y</ol><li>b</ol>", "2. a\n  1. x\n  2. y\n1. b"),
        ("<ul><li>a<ul start=3><li>b</ul></ul>", "- a\n  - b"),
        (
            "<dl><dt>Keel<dd>The spine of a hull.<dt>Bow<dt>Stem<dd>Its front.<dd>A knot.</dl>",
            "Keel\n: The spine of a hull.\n\nBow\nStem\n: Its front.\n: A knot.",
        ),
        ("<dl><dt>Keel<dd><p>One.</p><p>Two.</p></dl>", "Keel\n: One.\n\nTwo."),
        (
            "<figure><img alt='not text' src=x><figcaption>A <b>boat</b>.</figcaption></figure><p>Text.",
            "A boat.\n\nText.",
        ),
    ],
    ids=[
        "start",
        "zero",
        "negative",
        "code",
        "reversed",
        "reversed-start",
        "value",
        "type",
        "nested",
        "unordered",
        "terms",
        "paragraphs",
        "figure",
    ],
)
def test_lists_and_figures(html: str, expected: str) -> None:
    assert markdown(html) == expected


@pytest.mark.parametrize(
    "inside",
    [
        'Title<a class="headerlink" href="#a" title="Permalink">¶</a>',
        'Title<a class=anchor href="#b">#</a>',
        'Title <a href="#b">##</a>',
        '<a class="anchor" href="#b" aria-hidden=true><svg><path/></svg></a>Title',
        '<a class="header-anchor" href="#b">🔗</a> Title',
        'Title<a class=hash-link href="#b">Permalink to Title</a>',
        'Title <a href="#b">Link to this heading</a>',
        'Title<a class="headerlink" href="#b">\uf0c1</a>',
        'Title<span class="mw-editsection">[<a href="e">edit</a> | <a href="f">edit source</a>]</span>',
        'Title [<a href="/w?title=x&action=edit&section=2">edit</a>]',
        'Title <a href="/s">§</a>',
        'Title<a class="hash-link" href="#b" aria-label="Direct link to Title">\u200b</a>',
        'Title<a class="sl-anchor-link" href="#b"><span class=sr-only>Section titled “Title”</span></a>',
        'Title <a class=anchor href="#b"><span>Permalink for this section</span>#</a>',
    ],
)
def test_permalinks_are_no_part_of_headings(inside: str) -> None:
    assert markdown(f"<h2>{inside}</h2><p>Text.") == "## Title\n\nText."
    assert markdown(f"<dl><dt>{inside}</dt></dl>") == "Title"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (
            '<p>See <a href="#s">§</a> 5, <a class=anchor href="#t">#</a>1 and <a href="#e">edit</a>.</p>',
            "See § 5, #1 and edit.",
        ),
        ('<h2><a href="#c">C#</a> and <a href="/e">Edit</a> and F#</h2>', "## C# and Edit and F#"),
        ('<h2><a href="#hash">#</a></h2>', "## #"),
        ('<h2><a href="/docs">Link</a> building</h2>', "## Link building"),
        ("<h2>5 ¶ 6 [edit]</h2>", "## 5 ¶ 6 [edit]"),
        ('<p class=rubric>Title<a class="headerlink" href="#a">¶</a></p>', "Title"),
    ],
)
def test_other_links_and_signs_stay(html: str, expected: str) -> None:
    assert markdown(html) == expected
