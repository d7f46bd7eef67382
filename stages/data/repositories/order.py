"""Order of the files of a repository: what is imported first, in the same order every time.

Strongly connected components (files that import each other in a circle) are found by Tarjan's algorithm, which visits
files and imports by path and yields a component after all those that it imports. In a component the file with the
fewest imports of it that are still missing comes first, and of those the first by path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Ordered(NamedTuple):
    """Paths in order, and the number of circles among them."""

    paths: list[str]
    circles: int


def dependency_order(imports: Mapping[str, Sequence[str]]) -> Ordered:
    """Order the keys of `imports`, which has the imported paths of every path; other paths are ignored."""
    graph = {path: sorted({at for at in imports[path] if at in imports and at != path}) for path in sorted(imports)}
    paths: list[str] = []
    circles = 0
    for component in _components(graph):
        circles += len(component) > 1
        paths += _broken(component, graph)
    return Ordered(paths, circles)


def _broken(component: Sequence[str], graph: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The files of a circle in order."""
    left = {path: {at for at in graph[path] if at in set(component)} for path in component}
    while left:
        path = min(left, key=lambda at: (len(left[at]), at))
        yield path
        del left[path]
        for missing in left.values():
            missing.discard(path)


def _components(graph: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Strongly connected components, each after those that it leads to; without recursion."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    held: set[str] = set()
    for root in graph:
        if root in number:
            continue
        work: list[tuple[str, Iterator[str]]] = [_enter(root, graph, number, lowest, stack, held)]
        while work:
            path, edges = work[-1]
            following = next((at for at in edges if at not in number or at in held), None)
            if following is None:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[path])
                if lowest[path] == number[path]:
                    at = stack.index(path)
                    component = stack[at:]
                    del stack[at:]
                    held.difference_update(component)
                    yield component
            elif following in number:
                lowest[path] = min(lowest[path], number[following])
            else:
                work.append(_enter(following, graph, number, lowest, stack, held))


def _enter(
    path: str,
    graph: Mapping[str, Sequence[str]],
    number: dict[str, int],
    lowest: dict[str, int],
    stack: list[str],
    held: set[str],
) -> tuple[str, Iterator[str]]:
    number[path] = lowest[path] = len(number)
    stack.append(path)
    held.add(path)
    return path, iter(graph[path])
