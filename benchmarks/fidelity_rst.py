"""Code and tables of a reStructuredText source, by docutils; of directives and roles of Sphinx what they hold."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles

CODE = ("code-block", "sourcecode", "code", "testcode", "doctest", "parsed-literal", "highlightlang")
# Their output is not in the source, or not on the page.
NOTHING = frozenset(
    [
        "literalinclude",
        "include",
        "only",
        "index",
        "toctree",
        "highlight",
        "currentmodule",
        "testsetup",
        "testcleanup",
        "tabularcolumns",
        "raw",
        "image",
        "figure",
        "sectionauthor",
        "moduleauthor",
        "codeauthor",
        "audit-event-table",
        "productionlist",
    ]
)
DESCRIPTIONS = frozenset(
    [
        "function",
        "class",
        "method",
        "attribute",
        "data",
        "exception",
        "opcode",
        "option",
        "cmdoption",
        "describe",
        "macro",
        "module",
    ]
)
KEPT = frozenset(("table", "list-table", "csv-table", "note", "warning", "tip", "important", "hint", "caution"))
# Left out by Sphinx.
DOCTEST = re.compile(r"[ ]*#[ ]*doctest:.*$|^[ ]*<BLANKLINE>$", re.M)
TARGET = re.compile(r"^(.*?)\s*<[^<>]+>$", re.S)
CALLS = frozenset(("func", "meth", "c:func", "py:func", "py:meth"))


class _Code(Directive):
    has_content, optional_arguments, final_argument_whitespace = True, 99, True

    def run(self) -> list[nodes.Node]:
        if ":hide:" in self.arguments:
            return []
        return [nodes.literal_block("", "\n".join(self.content))]


class _Nothing(Directive):
    has_content, optional_arguments, final_argument_whitespace = True, 99, True

    def run(self) -> list[nodes.Node]:
        return []


class _Content(Directive):
    """Any other directive: what is inside it, without arguments."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        box = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, box)
        return [box]


class _Description(_Content):
    """Directives with the signature of what they describe."""

    optional_arguments, final_argument_whitespace = 99, True

    def run(self) -> list[nodes.Node]:
        shown = " ".join(self.arguments)
        return [nodes.paragraph(shown, shown), *super().run()]


def _role(name: str, raw: str, text: str, *_: Any) -> tuple[list[nodes.Node], list[Any]]:
    """The text that Sphinx shows of a reference."""
    shown = titled[1] if (titled := TARGET.match(text)) else text.lstrip("!")
    if shown.startswith("~"):
        shown = shown.rpartition(".")[2] or shown[1:]
    shown = f"PEP {shown}" if name == "pep" else f"RFC {shown}" if name == "rfc" else shown
    if name.lower() in CALLS and not shown.endswith(")"):
        shown += "()"
    return [nodes.inline(raw, shown)], []


def _directive(name: str, *rest: Any) -> tuple[type[Directive], list[Any]]:
    if name in KEPT:
        return _docutils_directive(name, *rest)  # type: ignore[no-any-return]
    if name in CODE or name in NOTHING:
        return (_Code if name in CODE else _Nothing), []
    return (_Description if ":" in name or name in DESCRIPTIONS else _Content), []


_docutils_directive = directives.directive


def read_truth(source: str) -> tuple[list[str], list[str], list[list[list[str]]]]:
    """Code blocks, texts of all cells, and tables without spans."""
    directives.directive, before = _directive, directives.directive
    roles.role, role_before = (lambda name, *rest: (_role, [])), roles.role
    try:
        settings = {"report_level": 5, "halt_level": 5, "file_insertion_enabled": False, "raw_enabled": False}
        tree = publish_doctree(source, settings_overrides=settings)
    finally:
        directives.directive, roles.role = before, role_before
    for message in list(tree.findall(nodes.system_message)):
        message.parent.remove(message)
    code = [
        DOCTEST.sub("", node.astext())
        for node in tree.findall()
        if isinstance(node, nodes.literal_block | nodes.doctest_block)
    ]
    texts, tables = [], []
    for table in tree.findall(nodes.table):
        rows = [
            [" ".join(entry.astext().split()) for entry in row.findall(nodes.entry)] for row in table.findall(nodes.row)
        ]
        texts += [cell for row in rows for cell in row if cell]
        if not any("morecols" in entry or "morerows" in entry for entry in table.findall(nodes.entry)):
            tables.append(rows)
    return code, texts, tables
