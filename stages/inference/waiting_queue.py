"""Sequences that wait for their first admission, by client and request."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator

from longcat.stages.inference.sequence import Sequence

Path = tuple[Hashable, ...]


def key_path(sequence: Sequence) -> Path:
    """Path of the client."""
    return (sequence.key,)


def group_path(sequence: Sequence) -> Path:
    """Path of the request."""
    return (sequence.key, sequence.group)


class RunningCounts:
    """Numbers of running sequences by client and request."""

    def __init__(self) -> None:
        self._counts: Counter[Path] = Counter()

    def add(self, sequence: Sequence, number: int) -> None:
        for path in (key_path(sequence), group_path(sequence)):
            self._counts[path] += number
            if not self._counts[path]:
                del self._counts[path]

    def places(self, sequence: Sequence) -> tuple[int, int]:
        """Running sequences of the client and of the request of `sequence`."""
        return self._counts[key_path(sequence)], self._counts[group_path(sequence)]

    def __getitem__(self, path: Path) -> int:
        return self._counts[path]


class WaitingQueue:
    """Gives the next place to the client, then to the request, that has the fewest; the earliest of equals."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, dict[Hashable, deque[Sequence]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        for groups in self._groups.values():
            for group in groups.values():
                yield from group

    def add(self, sequence: Sequence) -> None:
        self._groups.setdefault(sequence.key, {}).setdefault(sequence.group, deque()).append(sequence)
        self._count += 1

    def remove(self, sequence: Sequence) -> None:
        groups = self._groups[sequence.key]
        groups[sequence.group].remove(sequence)
        self._count -= 1
        if not groups[sequence.group]:
            del groups[sequence.group]
        if not groups:
            del self._groups[sequence.key]

    def first(self, running: RunningCounts) -> Sequence | None:
        """The sequence to be admitted next; None if none waits."""
        heads = (group[0] for groups in self._groups.values() for group in groups.values())
        return min(heads, key=lambda head: (*running.places(head), head.arrival), default=None)
