"""Content hints from an element's tag, class, id and role, as bits."""

from __future__ import annotations

import re
from functools import lru_cache

ATTRIBUTE = re.compile(r'\b(class|id|role|itemprop|aria-hidden|style|hidden|data-testid)="([^"]*)"')
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")

# One bit per line, in this order; words are delimited by non-letters.
_WORDS = {
    "body_class": r"(?:article|entry|post|story|news|artikel|blog-?post|single|node|content)-?"
    r"(?:body|content|text|main|copy|inner|full)|content-?(?:body|area|text)|page-?content|body-?(?:content|copy|text)|"
    r"e-content|mw-parser-output|markdown-body|theme-doc-markdown|field-name-body|rich-?text|wysiwyg|postbody|bodytext|"
    r"main-?text|text-?body|description-?body",
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
# Set by the tag, the role or the item property alone, whatever the classes are.
_STRUCTURAL = ("article_element", "main_element")
NAMES = (*_WORDS, *_STRUCTURAL)
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
TAG_BITS["article"] |= BIT["article_element"]
TAG_BITS["main"] |= BIT["main_element"]
_VALUES = {
    ("role", "main"): "main_element",
    ("role", "article"): "article_element",
    ("itemprop", "articleBody"): "article_element",
}
# Only the first names of very long class lists are used.
MAX_NAME_CHARACTERS = 300


# Attributes recur within a site or framework, except those that carry data.
CACHED_CHARACTERS, CACHED_ATTRIBUTES, CACHED_NAMES = 200, 1 << 13, 1 << 14


def hint_bits(attributes: str) -> int:
    """Bits of `BIT` from a start tag's attributes."""
    return _recurring_bits(attributes) if len(attributes) <= CACHED_CHARACTERS else _bits(attributes)


@lru_cache(maxsize=CACHED_ATTRIBUTES)
def _recurring_bits(attributes: str) -> int:
    return _bits(attributes)


def _bits(attributes: str) -> int:
    bits = 0
    for name, value in ATTRIBUTE.findall(attributes):
        if name == "hidden":
            bits |= BIT["hidden"]
        elif name != "style":
            bits |= BIT.get(_VALUES.get((name, value), ""), 0)
            for word in value[:MAX_NAME_CHARACTERS].split():
                bits |= _bits_of_name(word)
        elif "none" in value:
            bits |= _bits_of_name(value[:MAX_NAME_CHARACTERS])
    return bits


@lru_cache(maxsize=CACHED_NAMES)
def _bits_of_name(name: str) -> int:
    """Bits of one class name, id or other value; they recur more than whole attributes, of which ids differ."""
    bits = 0
    for match in _PATTERN.finditer(CAMEL.sub("-", name).lower()):
        if match.lastgroup:
            bits |= BIT[match.lastgroup]
    return bits
