"""YAML for configurations, restricted to JSON types; size limits are checked before anything is built."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from longcat.pipeline.errors import ConfigError

MAX_DEPTH = 64
# Counted with aliases expanded, since code that walks or prints the value sees them expanded.
MAX_NODES = 100_000
MAX_CHARACTERS = 16 << 20
MAX_KEY_CHARACTERS = 256
MAX_NUMBER_CHARACTERS = 128
SHOWN_CHARACTERS = 40

_PREFIX = "tag:yaml.org,2002:"
_MERGE = _PREFIX + "merge"
_TAGS = frozenset(_PREFIX + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge"))


class BoundedLoader(yaml.SafeLoader):
    """Loader for JSON types, merge keys and `1e-3` as a number; dates stay text; limits are checked while composing.

    Nothing is constructed before the whole document has been composed and counted.
    """

    def __init__(self, text: str, as_text: frozenset[str] = frozenset()) -> None:
        super().__init__(text)
        self._as_text = as_text
        self._depth = 0
        self._nodes = 0
        self._characters = 0
        self._sizes: dict[str, tuple[int, int]] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors:
                # An anchor without a size is still open: the alias refers to its own parent.
                if event.anchor not in self._sizes:
                    raise ConstructorError(None, None, f"the alias *{event.anchor} contains itself", mark)
                self._spend(*self._sizes[event.anchor], mark)
            return super().compose_node(parent, index)
        before = self._nodes, self._characters
        self._spend(1, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0, mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        assert node is not None  # noqa: S101  the stream holds an event for it
        if node.tag not in _TAGS:
            raise ConstructorError(None, None, f"values of type {_tag(node)} are not supported", mark)
        if isinstance(node, MappingNode):
            self._check_keys(node)
            for key, value in node.value:
                if key.value in self._as_text:
                    _numbers_as_text(value)
        if event.anchor is not None:
            self._sizes[event.anchor] = self._nodes - before[0], self._characters - before[1]
        return node

    def _spend(self, nodes: int, characters: int, mark: yaml.Mark) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._nodes > MAX_NODES:
            raise ConstructorError(None, None, f"more than {MAX_NODES} values, with aliases expanded", mark)
        if self._characters > MAX_CHARACTERS:
            raise ConstructorError(None, None, f"more than {MAX_CHARACTERS} characters, with aliases expanded", mark)

    def _check_keys(self, node: MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag not in (_PREFIX + "str", _MERGE):
                found = (
                    "" if not isinstance(key, ScalarNode) else f" (write {key.value[:SHOWN_CHARACTERS]!r} in quotes)"
                )
                raise ConstructorError(None, None, f"a key of type {_tag(key)}, expected text{found}", key.start_mark)
            if len(key.value) > MAX_KEY_CHARACTERS:
                raise ConstructorError(
                    None, None, f"a key of more than {MAX_KEY_CHARACTERS} characters", key.start_mark
                )
            if key.value in seen:
                raise ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)

    def flatten_mapping(self, node: MappingNode) -> None:
        """Merge pairs into `node`: its own take precedence, then those of earlier sources; PyYAML would keep all."""
        pairs: dict[str, tuple[Node, Node]] = {}
        for source in _merged(node):
            self.flatten_mapping(source)
            for key, value in source.value:
                pairs.setdefault(key.value, (key, value))
        pairs.update({key.value: (key, value) for key, value in node.value if key.tag != _MERGE})
        node.value = list(pairs.values())

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if not isinstance(node, ScalarNode):
            return super().construct_object(node, deep)
        problem = f"{node.value[:SHOWN_CHARACTERS]!r} is not a valid {_tag(node)}"
        if node.tag != _PREFIX + "str" and len(node.value) > MAX_NUMBER_CHARACTERS:
            raise ConstructorError(None, None, problem, node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            raise ConstructorError(None, None, problem, node.start_mark) from None
        if refusal := _refusal(value):
            raise ConstructorError(None, None, refusal, node.start_mark)
        return value


# YAML 1.2 has neither dates nor `=` as scalar types, and JSON has no such types.
BoundedLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# PyYAML reads 1e-3 (no dot) as text; users mean the number.
BoundedLoader.add_implicit_resolver(
    _PREFIX + "float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str, as_text: frozenset[str] = frozenset()) -> Any:
    """Parse one YAML document without executing tags.

    Values are text, numbers, truth values, null, lists, and mappings with text as keys; a date is text. Merge keys
    (`<<`) are followed. Under the keys `as_text`, at any depth, numbers are the text that was written: an artifact's
    id such as `12345678901234e9` is no number there.

    Raises:
        ConfigError: the text is not YAML, has unsupported values or duplicate keys, or exceeds the limits of this
            module; names line and column.
    """
    try:
        loader = BoundedLoader(text, as_text)
        try:
            return loader.get_single_data()
        except (ValueError, OverflowError, RecursionError) as error:
            # Raised by the scanner for an escape beyond Unicode.
            raise ConfigError(f"not valid YAML: {error}", where=_place(where, loader.get_mark())) from None
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = f"{where}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise ConfigError(f"not valid YAML: the character U+{error.character:04X}", where=place) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _place(where, mark) if mark else where
        problem = error.problem or error.context or "unreadable"
        if isinstance(error, ComposerError) and error.context:
            problem = f"{error.context}, {problem}"
        raise ConfigError(f"not valid YAML: {problem}", where=place) from None


def _merged(node: MappingNode) -> list[MappingNode]:
    given = [value for key, value in node.value if key.tag == _MERGE]
    sources = [item for value in given for item in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
    for source in sources:
        if not isinstance(source, MappingNode):
            raise ConstructorError(None, None, "expected a mapping to merge, or a list of them", source.start_mark)
    return sources


def _numbers_as_text(node: Node) -> None:
    if isinstance(node, ScalarNode):
        if node.style is None and node.tag in (_PREFIX + "int", _PREFIX + "float"):
            node.tag = _PREFIX + "str"
        return
    for item in node.value:
        _numbers_as_text(item[1] if isinstance(item, tuple) else item)


def _place(where: str, mark: yaml.Mark) -> str:
    return f"{where}:{mark.line + 1}:{mark.column + 1}"


def _tag(node: Node) -> str:
    return str(node.tag).removeprefix(_PREFIX)[:SHOWN_CHARACTERS]


def _refusal(value: Any) -> str | None:
    """Why a scalar is not allowed in a configuration."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return "an integer of more than 64 bits"
    if isinstance(value, str) and "\0" in value:
        return "a string with the character U+0000"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "a string with a lone surrogate"
    return None
