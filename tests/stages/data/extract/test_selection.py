"""What of a page is its text: hidden text, reader comments, the check against long paragraphs, and the confidence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from resiliparse.parse.html import HTMLTree

from longcat.stages.data.extract.config import Comments
from longcat.stages.data.extract.content.blocks import read_blocks
from longcat.stages.data.extract.content.comments import is_comments
from longcat.stages.data.extract.content.features import PageFeatures
from longcat.stages.data.extract.content.hidden import hidden_by
from longcat.stages.data.extract.content.selection import select
from longcat.stages.data.extract.html import extract_page

PARAGRAPHS = (
    "Sourdough rises because wild yeast and bacteria live together in the flour. The baker feeds them every day, waits "
    "until the mixture has doubled, and keeps a spoonful of it for the next loaf, so that nothing has to be bought.",
    "The oven should be as hot as it gets. A heavy pot with a lid keeps the steam around the loaf for the first twenty "
    "minutes, which lets the crust stretch; without the lid it then turns brown, and it sounds hollow when it is done.",
    "Old bread is not lost: it can be sliced and toasted, grated for crumbs, or soaked in water and mixed into the "
    "next dough, where it binds water and keeps the new loaf soft for several days longer than flour alone would.",
)
SECRET = "Reserved for subscribers: the full schedule of the bakery."
READER = "I tried this at home and the crust was wonderful, thank you for the recipe."


def page(inside: str = "", after: str = "", around: str = "post-content") -> str:
    """An article with markup inside its text and after it."""
    text = "".join(f"<p>{paragraph}</p>" for paragraph in PARAGRAPHS[:2]) + inside + f"<p>{PARAGRAPHS[2]}</p>"
    return (
        '<html lang="en"><head><title>On bread</title></head><body><header><nav><ul><li><a href="/">Home</a></li>'
        '<li><a href="/about">About us</a></li></ul></nav></header><main><article><h1>On bread</h1>'
        f'<div class="{around}">{text}</div></article>{after}</main>'
        "<footer><p>© 2024 The Bakery</p></footer></body></html>"
    )


def assert_whole(text: str) -> None:
    """All paragraphs of the article are there, and nothing of what surrounds it."""
    for paragraph in PARAGRAPHS:
        assert paragraph in text
    assert "About us" not in text and "©" not in text


@pytest.mark.parametrize(
    "markup",
    [
        f"<p hidden>{SECRET}</p>",
        f'<div hidden="hidden"><p>{SECRET}</p></div>',
        f'<p aria-hidden="true">{SECRET}</p>',
        f'<div style="color: red; DISPLAY : none">{SECRET}</div>',
        f'<p style="visibility:hidden">{SECRET}</p>',
        f'<p class="note sr-only">{SECRET}</p>',
        f'<p class="visually-hidden">{SECRET}</p>',
        f'<p class="screen-reader-text">{SECRET}</p>',
        f'<div class="print-only"><p>{SECRET}</p></div>',
        f'<div class="visible-print-block"><p>{SECRET}</p></div>',
        f"<dialog><p>{SECRET}</p></dialog>",
    ],
)
def test_hidden_text_is_left_out(markup: str) -> None:
    text = extract_page(page(markup).encode(), None).text
    assert_whole(text)
    assert SECRET not in text


@pytest.mark.parametrize(
    "attributes", ["hidden", 'class="sr-only"', 'class="price visually-hidden"', 'style="display: none"']
)
def test_hidden_inline_text_is_left_out(attributes: str) -> None:
    text = extract_page(page(f"<p>The pot <span {attributes}>(opens a shop)</span>is heavy.</p>").encode(), None).text
    assert "The pot is heavy." in text


@pytest.mark.parametrize(
    "inside",
    [
        '<span aria-hidden="true">(12 euros)</span>',
        '<span style="display:none"><b>(12 euros)</b></span>',
        f'<span style="display:none">(12 euros) {SECRET * 2}</span>',
    ],
)
def test_inline_text_that_may_be_in_view_is_left(inside: str) -> None:
    assert "(12 euros)" in extract_page(page(f"<p>The pot {inside} is heavy.</p>").encode(), None).text


@pytest.mark.parametrize(
    ("tag", "attributes", "way"),
    [
        ("p", ' class="hidden-gem unhidden" title="hidden"', ""),
        ("p", ' hidden="until-found"', ""),
        ("p", ' data-hidden="true"', ""),
        ("p", ' aria-hidden="false"', ""),
        ("p", ' style="display:block"', ""),
        ("dialog", ' open=""', ""),
        ("details", "", ""),
        ("p", ' id="x" hidden=""', "hidden"),
        ("p", ' style="margin:0;display:none !important"', "style"),
    ],
)
def test_ways_of_hiding(tag: str, attributes: str, way: str) -> None:
    assert hidden_by(tag, attributes) == way


def test_an_article_that_a_script_reveals_is_kept() -> None:
    markup = page().replace("<article>", '<article style="display:none">')
    assert_whole(extract_page(markup.encode(), None).text)


@pytest.mark.parametrize(
    "section",
    [
        f'<div id="comments" class="comments-area"><h2>2 comments</h2><ol class="comment-list">'
        f'<li class="comment"><p>{READER}'
        f"</p></li><li class='comment'><p>{READER}</p></li></ol></div>",
        f'<section class="article-comments"><div class="comment-body"><p>{READER}</p></div></section>',
        f'<div id="disqus_thread"><div><p>{READER}</p></div></div>',
        f'<section id="kommentare"><h3>Kommentare</h3><p>{READER}</p></section>',
    ],
)
def test_comments_of_an_article(section: str) -> None:
    def extracted(comments: Comments) -> tuple[str, str | None]:
        found = extract_page(page(after=section).encode(), None, comments=comments)
        assert_whole(found.text)
        return found.text, found.comments

    for comments in ("auto", "drop"):
        text, said = extracted(comments)  # type: ignore[arg-type]
        assert READER not in text and said is None
    text, said = extracted("keep")
    assert READER in text and said is None
    text, said = extracted("separate")
    assert READER not in text and said is not None and READER in said


@pytest.mark.parametrize(
    "attributes", [' class="has-comments-open post"', ' class="no-comment"', ' id="commentary"', ""]
)
def test_what_is_no_section_of_comments(attributes: str) -> None:
    assert not is_comments(attributes)


@pytest.mark.parametrize(
    "name", ["entry share", "post cookie", "content sidebar", "promo story", "related text", "ads"]
)
def test_one_class_name_does_not_outweigh_paragraphs(name: str) -> None:
    assert_whole(extract_page(page(around=name).encode(), None).text)


LINKS = '<a href="/rye">Rye bread</a> <a href="/oats">Oat bread</a>'


def chosen_for(html: str, kind: str = "article") -> str:
    """Text of the blocks that are kept where all have the best score."""
    blocks = read_blocks(HTMLTree.parse(html).document.html)
    features = PageFeatures(blocks, "", "On bread")
    keep = select(features, np.ones(len(blocks.blocks), np.float32), kind, "auto").keep
    return "\n".join(block.text for block, kept in zip(blocks.blocks, keep, strict=True) if kept)


@pytest.mark.parametrize(
    "markup",
    [
        f"<nav><p>See {LINKS}</p></nav>",
        f'<div role="navigation"><p>{LINKS}</p></div>',
        f'<ul role="menu"><li>{LINKS}</li></ul>',
        f'<div role="contentinfo"><p>{LINKS}</p></div>',
        f'<table role="navigation"><tr><td>{LINKS}<td>{LINKS}<tr><td>{LINKS}<td>{LINKS}</table>',
        f'<div class="breadcrumbs"><a href="/">Home</a> / <span>{LINKS} and more on baking at home</span></div>',
        f'<ol aria-label="Breadcrumb"><li><a href="/">Home</a></li><li>{LINKS} and more on baking</li></ol>',
    ],
)
def test_navigation_of_links_is_left_out(markup: str) -> None:
    text = chosen_for(page(markup))
    assert "Rye bread" not in text
    assert all(paragraph in text for paragraph in PARAGRAPHS)


@pytest.mark.parametrize(
    "html",
    [
        page(f"<nav><p>We bake {LINKS}, and on Sundays a sweet one with raisins that is gone by noon.</p></nav>"),
        page(f'<div class="breadcrumbling"><p>Of old bread: {LINKS}, with butter.</p></div>'),
        page(f"<ul><li>{LINKS}</li></ul>"),
        f"<nav><ul><li>{LINKS}</li></ul></nav><p>All breads.</p>",
    ],
)
def test_other_links_are_left_to_the_scores(html: str) -> None:
    assert "Rye bread" in chosen_for(html)


@pytest.mark.parametrize("prefix", ["Re: ", "AW: ", "Ответ: ", "回复："])
def test_subjects_of_replies_are_left_out_of_forums(prefix: str) -> None:
    html = page(f'<h3><a href="#2">{prefix}On bread</a></h3><p>Re: the pot, any heavy one will do.</p>')
    assert prefix in chosen_for(html)
    text = chosen_for(html, "forum")
    assert f"{prefix}On" not in text and "Re: the pot" in text and "On bread" in text


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<ol start=3><li>three<li>four</ol>", "3. three\n4. four"),
        ("<ul><li>flour<li>salt</ul>", "- flour\n- salt"),
        ("<dl><dt>Crumb</dt><dd>the inside</dd></dl>", "Crumb\n: the inside"),
        ("<pre>knead 10</pre>", "```\nknead 10\n```"),
        ("<blockquote>Bread first.</blockquote>", "> Bread first."),
    ],
)
def test_short_parts_between_paragraphs_are_kept(markup: str, expected: str) -> None:
    text = extract_page(page(markup).encode(), None).text
    assert_whole(text)
    assert f"{PARAGRAPHS[1]}\n\n{expected}\n\n{PARAGRAPHS[2]}" in text


@pytest.mark.parametrize(
    "markup",
    [
        '<ul class="related"><li><a href="/a">Ten mills worth a visit</a><li><a href="/b">How flour is made</a></ul>',
        '<ul class="share-buttons"><li>Share<li>Tweet<li>Print</ul>',
        '<div class="newsletter"><ul><li>Subscribe to our newsletter<li>Unsubscribe at any time</ul></div>',
    ],
)
def test_boxes_between_paragraphs_are_left_out(markup: str) -> None:
    text = extract_page(page(markup).encode(), None).text
    assert f"{PARAGRAPHS[1]}\n\n{PARAGRAPHS[2]}" in text


def test_long_paragraphs_overrule_the_scores() -> None:
    blocks = read_blocks(HTMLTree.parse(page()).document.html)
    features = PageFeatures(blocks, "", "On bread")
    scores = np.array([0.9 if "About" in block.text else 0.3 for block in blocks.blocks], np.float32)
    chosen = select(features, scores, "article", "auto")
    assert chosen.reason == "long_paragraphs"
    kept = [block.text for block, keep in zip(blocks.blocks, chosen.keep, strict=True) if keep]
    assert set(PARAGRAPHS) <= set(kept) and "About us" not in kept
    sure = select(features, np.where(features.characters > 100, 0.9, 0.1).astype(np.float32), "article", "auto")
    assert sure.reason is None and sure.confidence > chosen.confidence


def test_article_body_of_structured_data_replaces_a_text_without_it() -> None:
    body = " ".join(PARAGRAPHS)
    teaser = (
        "Subscribe to read on. Our journalists work hard for you, and their work has its price, as you will know. " * 3
    )
    data = json.dumps({"@type": "NewsArticle", "articleBody": body})
    html = (
        f'<html><head><title>On bread</title><script type="application/ld+json">{data}</script></head><body><article>'
        f"<h1>On bread</h1><div class='paywall'><p>{teaser}</p></div></article></body></html>"
    )
    found = extract_page(html.encode(), None)
    assert (found.text, found.fallback) == (body, "structured_data")
    with_text = page().replace("</head>", f'<script type="application/ld+json">{data}</script></head>')
    assert extract_page(with_text.encode(), None).fallback is None


def test_confidence_is_between_none_and_all() -> None:
    sure = extract_page(page().encode(), None).confidence
    assert sure is not None and 0.8 < sure <= 1
