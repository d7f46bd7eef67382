"""State of the pass over tags: open elements and lists, and what is made of them."""

from __future__ import annotations

from longcat.stages.data.extract.content import code
from longcat.stages.data.extract.content.block import Block, Blocks
from longcat.stages.data.extract.content.formulas import latex_of_rendered, quoted
from longcat.stages.data.extract.content.hints import TAG_BITS, hint_bits
from longcat.stages.data.extract.content.inline import MARKS
from longcat.stages.data.extract.content.lists import ItemNumbers
from longcat.stages.data.extract.content.roles import (
    COPY,
    EDIT,
    HIDDEN,
    NUMBERS,
    PREVIEW,
    RENDERED,
    SOURCE,
    inline_role,
    role,
)
from longcat.stages.data.extract.content.tags import (
    BLOCK_TAGS,
    CODE_BLOCK,
    ITEM_TAGS,
    LASTING_TAGS,
    PLAIN_TAGS,
    TABLE,
    TITLE_TAGS,
)
from longcat.stages.data.extract.content.text import InlineText, unescape

LOOKS = 10  # how often each token of a page may be looked at in search of code and formulas, on average

HIDDEN_CHARACTERS = 100  # of an inline element; scripts show longer ones, as the rest of a text


class Walk:
    """Elements are entered and left in order; `flush` ends a block."""

    def __init__(self, tokens: code.Tokens) -> None:
        self.tokens = tokens
        self.budget = LOOKS * len(tokens)  # tokens that may be looked at again
        self.out = Blocks(tags_seen=len(tokens))
        self.own: list[int] = []  # hint bits by element
        self.text = InlineText()
        self.parts = self.text.parts
        self.in_link = 0
        self.in_pre = 0
        self.stack: list[tuple[str, int, int, int, str, str]] = []  # tag, element, near, above, lasting tag, attributes
        self.lists: list[ItemNumbers] = []
        self.fresh = False
        self.number: int | None = None
        self.makes: dict[tuple[str, str], tuple[int, int, int]] = {}
        self.inline_roles: dict[str, int] = {}

    def finish(self) -> Blocks:
        """End the block and all elements; returns what was made."""
        self.flush()
        while self.stack:
            self.close(self.stack[-1][0])
        self.out.kinds = list(self.makes)
        return self.out

    def inline_role(self, attributes: str) -> int:
        """Roles of an inline element with these attributes, which recur on a page."""
        roles = self.inline_roles.get(attributes)
        if roles is None:
            roles = self.inline_roles[attributes] = inline_role(attributes)
        return roles

    def flush(self) -> None:
        """End the block."""
        if self.parts:
            text, linked = self.text.take(keep_space=bool(self.in_pre))
            if text and not text.isspace():
                self.add(text, linked)

    def add(self, text: str, linked: int) -> None:
        """Add a block with this text."""
        _, element, near, above, lasting, _ = self.stack[-1] if self.stack else ("body", 0, 0, 0, "body", "")
        self.out.blocks.append(
            Block(text, lasting, element, min(linked, len(text)), len(self.lists), self.fresh, self.number, near, above)
        )
        self.fresh = False
        self.number = None

    def make(self, tag: str, attributes: str) -> tuple[int, int, int]:
        """Number, hint bits and roles of elements with this tag and these attributes."""
        made = self.makes.get((tag, attributes))
        if made is None:
            bits, roles = TAG_BITS.get(tag, 0), 0
            if attributes:
                bits |= hint_bits(attributes)
                roles = role(attributes)
            made = self.makes[tag, attributes] = len(self.makes), bits, roles
        return made

    def enter(self, tag: str, attributes: str, key: int, bits: int) -> str:
        """Enter an element; it does not separate blocks by itself. Returns the lasting tag around it."""
        out = self.out
        element = len(out.parents)
        if self.stack:
            _, parent, _, above, lasting, _ = self.stack[-1]
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
        elif tag not in PLAIN_TAGS:
            if tag in BLOCK_TAGS:
                lasting = tag
        elif lasting not in LASTING_TAGS:
            lasting = "div"
        self.stack.append((tag, element, close, above, lasting, attributes))
        return lasting

    def open(self, tag: str, attributes: str, key: int, bits: int) -> None:
        self.flush()
        self.enter(tag, attributes, key, bits)
        if tag in ITEM_TAGS:
            self.fresh = True
            if tag == "li":
                self.number = self.lists[-1].count(attributes) if self.lists else None
            elif attributes and tag in ("td", "th"):
                self.out.attributes[len(self.own) - 1] = attributes
        elif tag in ("ul", "ol", "menu"):
            self.lists.append(ItemNumbers(tag, attributes, len(self.out.blocks)))
        elif tag == "pre":
            self.in_pre += 1
        elif attributes and tag == "table":
            self.out.attributes[len(self.own) - 1] = attributes
        elif tag == "html":
            self.text.set_language(attributes)

    def close(self, tag: str) -> None:
        self.flush()
        self.leave(tag)

    def leave(self, tag: str) -> None:
        while self.stack:
            found, element, *_ = self.stack.pop()
            self.out.ends[element] = len(self.out.blocks)
            if found == "pre":
                self.in_pre -= 1
            elif found in ("ul", "ol", "menu") and self.lists:
                self.lists.pop().finish(self.out.blocks, len(self.lists) + 1)
            if found == tag:
                return

    def special(self, index: int, roles: int) -> int:
        """Read the output of MathJax and KaTeX, and skip links to edit a section and short hidden text.

        Returns the index of the last token of what is finished, else 0.
        """
        tokens = self.tokens
        if roles & RENDERED:
            end = self.end_of(index)
            if not end or tokens[index][5] not in ("span", "div") or code.holds_prose(tokens, index, end):
                return 0
            source = latex_of_rendered(code.markup(tokens, index, end))
            self.text.add_formula(source)
            self.text.rendered = bool(source)
            return end if source or _has_source(tokens, end + 1) else 0
        if roles & PREVIEW or (roles & COPY and self.text.is_after_formula()):
            return self.end_of(index)
        if roles & SOURCE and index + 1 < len(tokens) and tokens[index + 1][4]:
            source = unescape(tokens[index + 1][0]).strip()
            if source.startswith(("\\(", "\\[", "$")):
                return 0
            self.text.add_formula(quoted(source, displayed="display" in tokens[index][6]))
            return index + 1
        if roles & EDIT and self.stack and self.stack[-1][4] in TITLE_TAGS:
            return self.end_of(index)
        if roles & HIDDEN and index + 1 < len(tokens) and tokens[index + 1][4]:
            return index + 1 if len(tokens[index + 1][0]) <= HIDDEN_CHARACTERS else 0
        return 0

    def add_code(self, start: int, end: int) -> bool:
        """Add the element from `start` to `end` as one block of code; false if it is text."""
        tag, attributes = self.tokens[start][5:]
        around = [entry[5] for entry in self.stack[:-3:-1]]
        read = code.code_text(self.tokens, start, end)
        if read is None:
            return False
        escaped, linked, language = read
        key, bits, _ = self.make(tag, attributes)
        self.open(tag, attributes, key, bits)
        tag, element, close, above, _, _ = self.stack[-1]
        text = unescape(escaped).strip("\n").rstrip()
        if text and not text.isspace():
            self.stack[-1] = (tag, element, close, above, "pre", attributes)
            self.add(text, linked)
            if language := language or code.language_of(attributes, *around):
                self.out.languages[element] = language
        self.close(tag)
        return True

    def end_code(self) -> None:
        """End inline code; code of several lines is a block, except in cells and titles."""
        self.text.inline_code("/")
        lines = self.text.lines_of_code()
        if not lines:
            return
        lasting = self.stack[-1][4] if self.stack else ""
        if not self.stack or lasting in TITLE_TAGS or lasting in ("td", "th"):
            self.text.split_code()
            return
        del self.parts[self.text.code_start :]
        self.flush()
        entry = self.stack[-1]
        self.stack[-1] = (*entry[:4], "pre", entry[5])
        if text := MARKS.sub("", unescape(lines)).strip("\n").rstrip():
            self.add(text, 0)
        self.stack[-1] = entry

    def end_of(self, index: int) -> int:
        """Index of the last token of the element at `index`; 0 if tokens were looked at too often already."""
        if self.budget <= 0:
            return 0
        end = code.end_of(self.tokens, index)
        self.budget -= end - index
        return end

    def read_whole(self, index: int, kind: int, roles: int) -> int:
        """Read or skip the block element at `index` if it holds code, line numbers or a formula.

        Returns the index of its last token, else 0.
        """
        tokens = self.tokens
        if roles >= COPY and (end := self.special(index, roles)):
            return end
        if roles & NUMBERS and (end := self.end_of(index)) and code.only_numbers(tokens, index, end):
            return end
        if (
            kind == CODE_BLOCK
            or (roles and code.starts_code(tokens, index, roles))
            or (kind == TABLE and code.is_table_of_lines(tokens, index))
        ) and (end := self.end_of(index)):
            return end if self.add_code(index, end) else 0
        return 0


def _has_source(tokens: code.Tokens, index: int) -> bool:
    """Whether the next token is a script with the source of a formula."""
    return index < len(tokens) and "math/" in tokens[index][2]
