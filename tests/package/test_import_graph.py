"""The import graph has no cycles, including imports for type checking only."""

from __future__ import annotations

from collections.abc import Iterator

import grimp
import pytest


def cycles(graph: grimp.ImportGraph) -> Iterator[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_modules: list[str] = []

    def visit(module: str) -> Iterator[list[str]]:
        number[module] = lowest[module] = len(number)
        open_modules.append(module)
        for other in sorted(graph.find_modules_directly_imported_by(module)):
            if other not in number:
                yield from visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in open_modules:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            place = open_modules.index(module)
            found = open_modules[place:]
            del open_modules[place:]
            if len(found) > 1:
                yield sorted(found)

    for module in sorted(graph.modules):
        if module not in number:
            yield from visit(module)


def test_no_import_cycles() -> None:
    graph = grimp.build_graph("longcat", cache_dir=None)
    assert len(graph.modules) > 300
    assert list(cycles(graph)) == []


def test_a_cycle_is_found() -> None:
    graph = grimp.ImportGraph()
    for module in "abcd":
        graph.add_module(module)
    for importer, imported in ("ab", "bc", "ca", "cd"):
        graph.add_import(importer=importer, imported=imported)
    assert list(cycles(graph)) == [["a", "b", "c"]]


@pytest.mark.parametrize(("folder", "most"), [("stages/train", 12)])
def test_folders_have_few_files(folder: str, most: int) -> None:
    from longcat.pipeline.processes import import_root

    assert len(list((import_root() / "longcat" / folder).glob("*.py"))) <= most
