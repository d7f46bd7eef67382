"""The main-content scorer and what is written of a page: markdown, metadata, budgets and fallbacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import UsageError
from longcat.stages.data.extract import html as page_module
from longcat.stages.data.extract.content.blocks import read_blocks
from longcat.stages.data.extract.content.features import PageFeatures
from longcat.stages.data.extract.content.text_facts import SPECIAL
from longcat.stages.data.extract.guard import PageGuard
from longcat.stages.data.extract.html import extract_page
from longcat.stages.data.extract.records import Rejected
from tests.stages.data.extract.markup import PROSE, markdown


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<h2>A <b>title</b></h2><p>One <code>a_b</code><br>two", "## A title\n\nOne `a_b`\ntwo"),
        ("<ul><li>one<li>two<ul><li>deep</ul></ul>", "- one\n- two\n  - deep"),
        ("<ol><li>one<li><p>two</p><p>more</p></ol>", "1. one\n\n2. two\n\nmore"),
        ("<pre><code>a  = 1 &lt; 2\n  <span>b</span></code></pre>", "```\na  = 1 < 2\n  b\n```"),
        ("<blockquote>said &amp; done</blockquote>", "> said & done"),
        (
            "<table><tr><th>A<th>B<tr><td>1|2<td>3</table>",
            "| A | B |\n| --- | --- |\n| 1\\|2 | 3 |",
        ),
        ("<table><tr><td><p>left</p><p>more</p><td>right</table>", "left\n\nmore\n\nright"),
    ],
)
def test_structure_becomes_markdown(html: str, expected: str) -> None:
    assert markdown(html) == expected


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "tag", ["pre", 'div class="lineno"', 'span class="MathJax"', 'div data-tex="x"', 'div style="white-space:pre"']
)
def test_elements_that_are_read_as_a_whole_are_not_read_for_each_of_many_around_them(tag: str) -> None:
    deep = 20_000
    page = read_blocks(f"<{tag}>" * deep + "<p>x</p>" + f"</{tag.partition(' ')[0]}>" * deep)
    assert [block.text for block in page.blocks] == ["x"]


def test_content_is_kept_and_what_surrounds_it_is_not() -> None:
    html = f"""<html lang="en"><head><title>Boats</title><link rel="canonical" href="https://x.example/a?b=1&amp;c">
    <meta property="article:published_time" content="2024-03-05T10:00:00Z"></head><body>
    <nav class="menu"><ul><li><a href="/">Home</a><li><a href="/c">Contact us</a></ul></nav>
    <article><h1>Boats</h1><p>{PROSE}</p><p>{PROSE[100:]}</p></article>
    <footer class="footer"><p>© 2024 Example. <a href="/p">Privacy policy</a></p></footer></body></html>"""
    page = extract_page(html.encode(), None)
    assert page.text.count("The harbour lay still") >= 4
    assert "Contact us" not in page.text and "Privacy policy" not in page.text
    assert (page.date, page.canonical, page.language) == ("2024-03-05", "https://x.example/a?b=1&c", "en")
    assert page.kind and page.fallback is None


def test_page_without_text_gives_what_its_structured_data_says() -> None:
    data = json.dumps({"@graph": [{"@type": "NewsArticle", "articleBody": PROSE}]})
    html = f'<script type="application/ld+json">{data}</script><body><div id="root"></div></body>'
    page = extract_page(html.encode(), None)
    assert (page.text, page.fallback) == (" ".join(PROSE.split()), "structured_data")


def test_text_for_readers_without_scripts_is_taken_where_there_is_no_other() -> None:
    page = extract_page(f"<body><div id=app></div><noscript><main><p>{PROSE}</p></main></noscript>".encode(), None)
    assert "The harbour lay still" in page.text


@pytest.mark.parametrize(
    ("setting", "limit", "reason"),
    [("MAX_PAGE_BYTES", 1000, "bytes"), ("MAX_TAGS", 20, "tags"), ("MAX_TAGS", 99, None)],
)
def test_budget_leads_to_plain_text_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, setting: str, limit: int, reason: str | None
) -> None:
    monkeypatch.setattr(page_module, setting, limit)
    page = extract_page(f"<body><main>{f'<p>{PROSE}</p>' * 12}</main></body>".encode(), None)
    assert page.fallback == reason
    assert "The harbour lay still" in page.text


@pytest.mark.timeout(60)
def test_page_that_takes_the_scorer_too_long_gets_plain_text() -> None:
    guard = PageGuard()
    asked: list[str] = []

    class Slow(PageGuard):
        def _ask(self, data: bytes, charset: str | None, max_seconds: float, how: str) -> Any:
            asked.append(how)
            if how.endswith(" "):
                raise Rejected("timeout")
            return guard._ask(data, charset, max_seconds, how)

    try:
        page = Slow().extract(f"<p>{PROSE}</p>".encode(), None, 10)
        assert (page.fallback, asked) == ("time", ["longcat auto ", "longcat auto time"])
        assert "The harbour" in page.text
    finally:
        guard.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 10_000 + PROSE,
        "<table>" + "<tr><td>1<td>2" * 300_000 + "</table>",
        f"<p>nul \0 bytes \0</p><p>{PROSE}\0</p>",
        '<a b="' * 2000,
        "<math>" * 3000 + "x",
        "<iframe><script>" * 3000,
    ],
    ids=["nested", "rows", "nul", "quotes", "math", "raw"],
)
def test_pages_made_to_break_extraction_are_bounded(html: str) -> None:
    page = extract_page(html.encode(), None)
    assert "\0" not in page.text
    assert len(page.text) <= 4 * len(html)


@pytest.mark.parametrize("tag", ['<div class="a"">', '<div "">', '<div a="12" wide" b>', "<div a='\"'>"])
def test_a_quote_too_many_in_a_tag_swallows_no_text(tag: str) -> None:
    assert markdown(f'{tag}The "first" part.</div><p>The "second" part.</p>') == (
        'The "first" part.\n\nThe "second" part.'
    )


@pytest.mark.parametrize(
    "page", ['<t\u00a0f="><ul><l">text of it</ul>', "<noscript></body></html></div></noscript>x<p>y"]
)
def test_no_value_of_a_block_is_divided_by_nothing(page: str) -> None:
    with np.errstate(all="raise", under="ignore"):
        assert extract_page(page.encode(), None).text


def test_references_to_controls_make_no_marks() -> None:
    html = "<p>a&#1;<sup>b</sup>&#x02;c&#0;d&#9;e&#10;f&#88;g&#x8a;\x03</p>"
    assert markdown(page_module.without_controls(html)) == "a ^{b} c d e fXgŠ"


def test_mixed_encodings_lose_only_what_is_malformed() -> None:
    data = (
        b"<meta charset=utf-8><main><p>" + "Größe und Maß. ".encode() * 40 + "Größe".encode("latin-1") + b"</p></main>"
    )
    page = extract_page(data, "utf-8")
    assert page.text.count("Größe") == 40
    assert page.replaced


OPENED = "p ul li table tr td pre math mfrac a noscript script code sup del q dd blockquote svg body x-y mjx-container"
TAGS = [f"<{slash}{tag}>" for tag in OPENED.split() for slash in ("", "/")]
MARKUP = st.sampled_from(
    [*TAGS, "<br>", "&amp;", "\0", "<span class='katex-html'>", "</span>", "<!--", "-->", '"', "<x-y z", '<p "a=">']
)


@settings(max_examples=150, deadline=None)
@given(st.text("aZ 0²٣.,;。:!?é", min_size=1, max_size=300).filter(str.strip))
def test_signs_are_counted_alike_in_ascii_and_beyond(text: str) -> None:
    page = read_blocks(f"<body><p>{text}</p></body>")
    features, plain = PageFeatures(page, "", ""), page.blocks[0].text
    assert features.punctuation[0] == sum(sign in ".,;:!?。" for sign in plain)
    own, start = features.facts[0], plain[:200]
    assert own[2] == pytest.approx(sum(sign.isupper() for sign in start) / len(start))
    assert own[3] == pytest.approx(sum(sign.isdigit() for sign in start) / len(start))


@pytest.mark.parametrize(
    "text",
    ["We use Cookies.", "LOG IN", "Sign Up now", "Subscribe", "© 2020", "catalogue", "é login", "COOKİES", "ſubſcrıbe"],
)
def test_special_words_are_found_as_their_pattern_says(text: str) -> None:
    found = PageFeatures(read_blocks(f"<body><p>{text}</p></body>"), "", "").facts[0][4]
    assert bool(found) == bool(SPECIAL.search(text))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(MARKUP, st.text(max_size=12)), max_size=60))
def test_any_markup_gives_text_and_well_formed_ranges(parts: list[str]) -> None:
    html = "".join(parts)
    data = html.encode(errors="replace")
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        page = extract_page(data, None)
    assert page == extract_page(data, None)
    assert not {"\0", "\x01", "\x02"} & set(page.text)
    markup = HTMLTree.parse(html.replace("\0", "").encode(errors="replace").decode()).document
    blocks = read_blocks(markup.html if markup else "")
    assert all(0 <= start <= end <= len(blocks.blocks) for start, end in zip(blocks.starts, blocks.ends, strict=True))
    assert all(parent < index for index, parent in enumerate(blocks.parents))


def test_extractors_are_chosen_and_a_missing_one_is_named(
    tmp_path: Path, run_stage: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = extract_page(f"<main><h2>Boats</h2><p>{PROSE}</p></main>".encode(), None, "resiliparse").text
    assert "##" not in text and "Boats" in text
    (tmp_path / "a.html").write_text(f"<p>{PROSE}</p>")
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises((UsageError, ValueError)) as caught:
        run_stage("data.extract", {"input": [str(tmp_path / "a.html")], "extractor": "trafilatura"})
    assert "trafilatura" in str(caught.value)
