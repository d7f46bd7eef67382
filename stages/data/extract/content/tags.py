"""Kinds of HTML elements for the pass over tags."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Set of the names in `text`, separated by blanks."""
    return frozenset(text.split())


# What the pass does at a tag. Tags of no kind are inline, as unknown and custom elements are in HTML.
BLOCK, CODE_BLOCK, TABLE, SKIPPED, VOID, BREAK, LINK, CODE, MATH, RENDERED_MATH, IMAGE, MARK = range(1, 13)
BLOCK_TAGS = words(
    "address article aside blockquote body button caption center dd details dialog dir div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup html label legend li main menu nav ol "
    "option optgroup p pre search section select summary table tbody td tfoot th thead tr ul"
)
SKIPPED_TAGS = words("head noscript template svg iframe object canvas video audio textarea map datalist rp rt rtc")
VOID_TAGS = words("area base br col embed hr img input link meta source track wbr param")
CODE_TAGS = frozenset(("code", "kbd", "samp", "tt"))
HEADING_TAGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
# These tags apply to a block's text also inside nested plain elements.
LASTING_TAGS = HEADING_TAGS | words("p li td th dt dd pre blockquote button label option caption")
PLAIN_TAGS = words("div body html section article main center address")
# Besides headings, what documentation has links to itself in.
TITLE_TAGS = HEADING_TAGS | {"dt", "caption", "figcaption", "legend", "summary"}
ITEM_TAGS = frozenset(("li", "td", "th", "blockquote", "dd", "dt"))

KINDS: dict[str, int] = {
    **dict.fromkeys(BLOCK_TAGS, BLOCK),
    **dict.fromkeys(SKIPPED_TAGS, SKIPPED),
    **dict.fromkeys(VOID_TAGS, VOID),
    **dict.fromkeys(CODE_TAGS, CODE),
    "pre": CODE_BLOCK,
    "table": TABLE,
    "br": BREAK,
    "a": LINK,
    "math": MATH,
    "mjx-container": RENDERED_MATH,
    "img": IMAGE,
    **dict.fromkeys(("sup", "sub", "del", "s", "strike", "q"), MARK),
}
# For pages whose text is in <noscript>, which only readers without scripts see.
KINDS_WITHOUT_SCRIPTS = {tag: kind for tag, kind in KINDS.items() if tag != "noscript"}
