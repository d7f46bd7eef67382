"""What an element's tag, class, id and role say about its content, as bits."""

from __future__ import annotations

import re
from functools import lru_cache

ATTRIBUTE = re.compile(r'\b(class|id|role|itemprop|aria-hidden|style|hidden|data-testid)="([^"]*)"')
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")

# One bit a line, in this order; words stand between anything but letters.
_WORDS = {
    "navigation": r"nav|navbar|navigation|menu|menubar|submenu|breadcrumbs?|pagination|pager|paging|"
    r"skip|jump|toolbar|tabs?",
    "header": r"header|masthead|topbar|banner|site-?header|top",
    "footer": r"footer|foot|copyright|colophon|bottom|contentinfo|legal",
    "aside": r"aside|sidebar|side|rail|widgets?|complementary|secondary|tertiary",
    "promotion": r"ads?|advert\w*|promo\w*|sponsor\w*|banner|newsletter|subscri\w+|signup|sign-up|"
    r"cta|donat\w+|offer|coupon",
    "social": r"social|share|sharing|sharedaddy|follow|twitter|facebook|likes?",
    "overlay": r"cookies?|consent|gdpr|modal|popup|overlay|dialog|alert|toast|tooltip|drawer|offcanvas",
    "related": r"related|recommend\w*|suggest\w*|trending|popular|similar|more|also|latest|"
    r"recent|upsell|crosssell|next|prev\w*",
    "comment": r"comments?|repl(?:y|ies)|disqus|respond|discussion",
    "main": r"main|maincontent|primary|content|page-?content",
    "article": r"article|articlebody|entry|story|prose|markdown|richtext|rich|rte|wysiwyg|blog|"
    r"editorial|text|body|copy",
    "form": r"form|search|login|input|fields?|filters?|sort|sorting|facets?|select|dropdown|options?",
    "hidden": r"hidden|hide|invisible|visually|sr|screen|noprint|collapsed?|display:\s*none|true",
    "message": r"posts?|messages?|threads?|topics?|answers?|questions?|bbcode|postbody|forum|quote",
    "product": r"products?|price|spec\w*|details?|features?|description|attributes?|sku|variant|"
    r"buy|cart|stock|shipping",
    "card": r"cards?|tiles?|items?|teasers?|grid|list|listing|results?|feed|carousel|slider|"
    r"slide|swiper|gallery|collection|loop",
    "byline": r"byline|authors?|dates?|meta|time|timestamp|published|posted|tags?|category|"
    r"categories|user|avatar|profile|bio|badge",
    "contents": r"toc|contents|table-of-contents|index|outline|anchor|permalink|headerlink|edit",
    "title": r"title|heading|headline|hero|subtitle|name",
    "section": r"section|block|row|column|col|container|wrapper|module|panel|accordion|faq|intro|"
    r"about|summary|lead|reviews?|rating",
    "caption": r"caption|credit|image|img|figure|media|photo|video|icon|logo|button|btn|link",
    "code": r"code|highlight|syntax|example|api|method|function|class|param\w*|signature|"
    r"docs?|documentation|tutorial",
}
NAMES = tuple(_WORDS)
BIT = {name: 1 << position for position, name in enumerate(NAMES)}
_PATTERN = re.compile("|".join(f"(?P<{name}>(?<![a-z])(?:{words})(?![a-z]))" for name, words in _WORDS.items()))
_TAGS = {
    "nav": "navigation",
    "header": "header",
    "footer": "footer",
    "aside": "aside",
    "dialog": "overlay",
    "main": "main",
    "article": "article",
    "form": "form",
    "fieldset": "form",
    "select": "form",
    "button": "form",
    "label": "form",
    "figure": "caption",
    "figcaption": "caption",
    "section": "section",
    "pre": "code",
    "address": "byline",
    "time": "byline",
}
TAG_BITS = {tag: BIT[name] for tag, name in _TAGS.items()}
# A class of hundreds of names says no more than its first ones.
MAX_NAME_CHARACTERS = 300


# Attributes of one site's pages, and of pages made with one framework, recur; those that carry data do not.
CACHED_CHARACTERS, CACHED_ATTRIBUTES = 200, 1 << 13


def hint_bits(attributes: str) -> int:
    """Bits of `BIT` for what a start tag's attributes say."""
    return _recurring_bits(attributes) if len(attributes) <= CACHED_CHARACTERS else _bits(attributes)


@lru_cache(maxsize=CACHED_ATTRIBUTES)
def _recurring_bits(attributes: str) -> int:
    return _bits(attributes)


def _bits(attributes: str) -> int:
    bits = 0
    for name, value in ATTRIBUTE.findall(attributes):
        if name == "hidden":
            bits |= BIT["hidden"]
            continue
        if name == "style" and "none" not in value:
            continue
        text = CAMEL.sub("-", value[:MAX_NAME_CHARACTERS]).lower()
        for match in _PATTERN.finditer(text):
            if match.lastgroup:
                bits |= BIT[match.lastgroup]
    return bits
