"""A page as blocks of text: one pass over the tags of the parsed and serialised page.

The parser (lexbor) repairs the markup; walking its nodes from Python costs several calls a node, whereas its
serialisation is well formed, so that one regular expression gives all tags and texts at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from longcat.stages.data.extract.content.formulas import latex_of_math, tex_of_script
from longcat.stages.data.extract.content.hints import TAG_BITS, hint_bits

# Serialised, an attribute's name may hold quotes, where the markup had one too many, but its value never does. The
# second form is for text of the page that holds tags of its own, as in <noscript>.
_BLANK = r" \t\n\f\r"
_ATTRIBUTES = rf"((?:[{_BLANK}]=?[^{_BLANK}/>=]++(?:=\"[^\"]*+\")?+)*+[{_BLANK}]*+/?+(?=>)|(?:[^>\"]++|\"[^\"]*+\")*+)"
TOKEN = re.compile(
    rf"([^<]*+)<(?:(script|style)\b{_ATTRIBUTES}>(.*?)</\2>"
    rf"|(/?)([a-zA-Z][^{_BLANK}/>]*+){_ATTRIBUTES}>|!--.*?-->|![^>]*>|\?[^>]*>|)",
    re.DOTALL,
)
BLOCK_TAGS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "button",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "dir",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hgroup",
        "html",
        "label",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "option",
        "optgroup",
        "p",
        "pre",
        "search",
        "section",
        "select",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "ul",
    ]
)
SKIPPED_TAGS = frozenset(
    [
        "head",
        "noscript",
        "template",
        "svg",
        "iframe",
        "object",
        "canvas",
        "video",
        "audio",
        "textarea",
        "map",
        "datalist",
        "rp",
        "rt",
        "mjx-assistive-mml",
    ]
)
VOID_TAGS = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr", "param"]
)
# What these tags say of a block's text outlives the plain elements inside them.
LASTING_TAGS = frozenset(
    [
        "p",
        "li",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "td",
        "th",
        "dt",
        "dd",
        "pre",
        "blockquote",
        "button",
        "label",
        "option",
        "caption",
    ]
)
PLAIN_TAGS = frozenset(["div", "body", "html", "section", "article", "main", "center", "address"])
FORMULA_COPIES = ("katex-html", "MathJax_Preview", "MathJax_SVG", "MathJax_CHTML", "MJX_Assistive_MathML")
FEW_CHARACTERS = 500


@dataclass(slots=True)
class Block:
    """A run of text between two block boundaries. `element` is an index into `Blocks.elements`."""

    text: str
    tag: str
    element: int
    link_characters: int
    depth: int  # of lists for items
    first: bool  # whether it begins its list item, cell or quotation
    number: int  # of an item in an ordered list, else 0
    near: int  # hint bits of the nearest three elements
    above: int  # hint bits of all elements around it


@dataclass(slots=True)
class Blocks:
    """All blocks of a page in order, and for each element: parent, tag, and the range of blocks inside it."""

    blocks: list[Block] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)  # of tag and class, the same for elements of one make
    tags_seen: int = 0


def unescape(text: str) -> str:
    """Undo what serialisation escapes."""
    if "&" not in text:
        return text
    return (
        text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&nbsp;", " ")
        .replace("&quot;", '"')
        .replace("&amp;", "&")
    )


class _Walk:
    """State of the one pass."""

    def __init__(self) -> None:
        self.out = Blocks()
        self.own: list[int] = []  # hint bits by element
        self.parts: list[str] = []
        self.links: list[str] = []
        self.in_link = 0
        self.in_pre = 0
        self.stack: list[tuple[str, int, int, int, str]] = []  # tag, element, near, above, lasting tag
        self.lists: list[list[int]] = []  # [0] for unordered, [1, n] for ordered
        self.fresh = False
        self.number = 0
        self.makes: dict[tuple[str, str], tuple[int, int]] = {}  # number and hint bits by tag and attributes

    def flush(self) -> None:
        if not self.parts:
            return
        raw = unescape("".join(self.parts))
        self.parts.clear()
        link = len("".join(self.links))
        self.links.clear()
        if self.in_pre:
            text = raw.strip("\n").rstrip()
        elif "\x00" in raw:
            text = "\n".join([" ".join(line.split()) for line in raw.split("\x00")]).strip("\n")
        else:
            text = " ".join(raw.split())
        if not text or text.isspace():
            return
        _, element, near, above, lasting = self.stack[-1] if self.stack else ("body", 0, 0, 0, "body")
        blocks = self.out.blocks
        blocks.append(
            Block(text, lasting, element, min(link, len(text)), len(self.lists), self.fresh, self.number, near, above)
        )
        self.fresh = False
        self.number = 0

    def open(self, tag: str, attributes: str) -> None:
        self.flush()
        out = self.out
        made = self.makes.get((tag, attributes))
        if made is None:
            hinted = hint_bits(attributes) if attributes else 0
            made = self.makes[tag, attributes] = (len(self.makes), hinted | TAG_BITS.get(tag, 0))
        key, bits = made
        element = len(out.parents)
        if self.stack:
            _, parent, _, above, lasting = self.stack[-1]
            parents, own = out.parents, self.own
            close = bits | own[parent]
            if parents[parent] >= 0:
                close |= own[parents[parent]]
            above |= bits
        else:
            parent, close, above, lasting = -1, bits, bits, "body"
        self.own.append(bits)
        out.parents.append(parent)
        out.tags.append(tag)
        out.starts.append(len(out.blocks))
        out.ends.append(-1)
        out.keys.append(key)
        if tag in LASTING_TAGS:
            lasting = tag
            if tag in ("li", "td", "th", "blockquote", "dd", "dt"):
                self.fresh = True
            if tag == "li":
                self.number = 0
                if self.lists and self.lists[-1][0]:
                    self.lists[-1][1] += 1
                    self.number = self.lists[-1][1]
            elif tag == "pre":
                self.in_pre += 1
        elif tag not in PLAIN_TAGS:
            lasting = tag
        elif lasting not in LASTING_TAGS:
            lasting = "div"
        if tag in ("ul", "ol", "menu"):
            self.lists.append([1, 0] if tag == "ol" else [0, 0])
        self.stack.append((tag, element, close, above, lasting))

    def close(self, tag: str) -> None:
        self.flush()
        while self.stack:
            found, element, *_ = self.stack.pop()
            self.out.ends[element] = len(self.out.blocks)
            if found == "pre":
                self.in_pre -= 1
            elif found in ("ul", "ol", "menu") and self.lists:
                self.lists.pop()
            if found == tag:
                return


def read_blocks(html: str) -> Blocks:
    """The blocks of a page that was parsed and serialised, so that its tags are well formed.

    Where a page has next to no text for readers with scripts, the text for those without is taken.
    """
    tokens = TOKEN.findall(html)
    blocks = _walk(tokens, SKIPPED_TAGS)
    if "<noscript" in html and sum(len(block.text) for block in blocks.blocks) < FEW_CHARACTERS:
        return _walk(tokens, SKIPPED_TAGS - {"noscript"})
    return blocks


# One loop over all tags of a page, with a branch a kind of tag: calls would cost more than what they do.
def _walk(tokens: list[tuple[str, ...]], skipped: frozenset[str]) -> Blocks:  # noqa: PLR0912, PLR0915
    walk = _Walk()
    walk.out.tags_seen = len(tokens)
    parts, links = walk.parts, walk.links
    skipping, depth = "", 0
    mathematics: list[str] | None = None
    for text, raw_tag, raw_attributes, raw, slash, tag, attributes in tokens:
        if mathematics is not None:
            mathematics.append(text)
            if tag:
                mathematics.append(f"<{slash}{tag}{attributes}>")
            if tag == "math" and slash:
                parts.append(latex_of_math("".join(mathematics)))
                mathematics = None
            continue
        if skipping:
            if tag == skipping:
                depth += -1 if slash else 1
                if not depth:
                    skipping = ""
            continue
        # Most texts between tags are the line breaks of the markup, which begin no block.
        if text and (parts or walk.in_pre or not text.isspace()):
            parts.append(text if walk.in_pre else text.replace("\x00", ""))
            if walk.in_link:
                links.append(text.strip())
        if raw_tag:
            if "math/" in raw_attributes:
                parts.append(tex_of_script(raw_attributes, raw))
        elif not tag:
            continue
        elif tag == "br":
            parts.append("\n" if walk.in_pre else "\x00")
        elif tag in VOID_TAGS:
            if tag == "hr":
                walk.flush()
        elif tag in BLOCK_TAGS or "-" in tag:
            if slash:
                walk.close(tag)
            elif tag in skipped:
                skipping, depth = tag, 1
            else:
                walk.open(tag, attributes)
        elif tag == "a":
            walk.in_link += -1 if slash else 1
        elif tag in skipped:
            if not slash:
                skipping, depth = tag, 1
        elif slash:
            if tag == "code" and not walk.in_pre:
                parts.append("\x02")
        elif tag == "math":
            mathematics = [f"<math{attributes}>"]
        elif tag == "code" and not walk.in_pre:
            parts.append("\x01")
        elif tag == "span" and attributes and any(name in attributes for name in FORMULA_COPIES):
            skipping, depth = "span", 1
    walk.flush()
    while walk.stack:
        walk.close(walk.stack[-1][0])
    return walk.out
