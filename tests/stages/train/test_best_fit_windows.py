"""Best-fit packing of training samples: nothing that fits is cut, and every token is a target once."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.pipeline.errors import InputError
from longcat.pipeline.tokens import TokenFile, TokenWriter
from longcat.stages.formats.best_fit_windows import BestFitWindows
from longcat.stages.formats.training_windows import MixedWindows, training_windows
from longcat.stages.formats.windows import IGNORED, TokenWindows, batch

LENGTHS = [3, 17, 1, 40, 8, 25, 2, 64, 5, 5, 31]


class Numbered:
    """Documents in memory, in which every token is a different number."""

    def __init__(self, lengths: list[int]) -> None:
        self.document_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.n_documents = len(lengths)
        self.prefix = Path("numbered")

    def document(self, number: int) -> np.ndarray:
        return np.arange(self.document_offsets[number], self.document_offsets[number + 1])


def best_fit(lengths: list[int], length: int, **options: object) -> BestFitWindows:
    return BestFitWindows(Numbered(lengths), sequence_length=length, seed=3, **options)  # type: ignore[arg-type]


def epoch_of(windows: BestFitWindows, number: int = 0) -> list:
    first = number * windows.windows_per_epoch
    return [windows.sample(first + index) for index in range(windows.windows_per_epoch)]


def write(prefix: Path, lengths: list[int]) -> TokenFile:
    with TokenWriter(prefix, sum(lengths)) as writer:
        ids = iter(range(sum(lengths)))
        for length in lengths:
            writer.add_document([next(ids) for _ in range(length)])
    return TokenFile(prefix)


def test_a_known_example() -> None:
    """L = 10, so 11 tokens a window: 13 = 11 + a rest of 3 (with the token before it), 8 + 3, 6 + 4 and one empty."""
    windows = best_fit([13, 4, 6, 8], 10)
    rows = sorted(epoch_of(windows), key=lambda row: int(row.ids.min()))
    whole, rest, short = rows
    assert whole.ids.tolist() == list(range(11))
    assert whole.starts.tolist() == [0]
    assert whole.trained.all()
    first, second = (range(13, 17), range(17, 23)) if short.ids[0] == 13 else (range(17, 23), range(13, 17))
    assert short.ids.tolist() == [*first, *second, first[0]]  # one position of padding repeats the window
    assert short.starts.tolist() == [0, len(first)]  # the padding is only a target, and so no document
    assert short.trained.tolist() == [True] * 9 + [False]
    assert sorted(rest.ids.tolist()) == [10, 11, 12, *range(23, 31)]
    border = int(rest.starts[1])
    # The first token of a rest is no target after another document; that of a document is one.
    assert rest.trained.tolist() == [place != border - 1 or rest.ids[0] == 10 for place in range(10)]
    figures = windows.packing().row()
    assert figures == {
        "kind": "best_fit",
        "sequence_length": 10,
        "sequences": 3,
        "waste": round(1 / 30, 6),
        "documents": 4,
        "longer_documents": 1,
        "cut_documents": 0,
        "cut_fraction": 0.0,
    }


def test_padding_is_a_document_of_its_own() -> None:
    (row,) = [row for row in epoch_of(best_fit([11, 4], 10)) if row.ids[0] == 11]
    assert row.ids.tolist() == [11, 12, 13, 14, 11, 12, 13, 14, 11, 12, 13]
    assert row.starts.tolist() == [0, 4]
    assert row.trained.tolist() == [True] * 3 + [False] * 7


@given(st.lists(st.integers(1, 70), min_size=1, max_size=60), st.integers(1, 30), st.booleans())
def test_no_document_that_fits_is_cut_and_every_token_is_a_target_once(
    lengths: list[int], length: int, across: bool
) -> None:
    if sum(lengths) <= length:
        lengths.append(length)
    windows = best_fit(lengths, length, across_documents=across)
    bounds = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    firsts = set(bounds[:-1])
    for epoch in (0, 2):
        targets: Counter[int] = Counter()
        place_of: dict[int, tuple[int, int]] = {}
        padding = 0
        for index, row in enumerate(epoch_of(windows, epoch)):
            filled = len(set(row.ids.tolist()))
            padding += length + 1 - filled
            assert not row.trained[filled - 1 :].any()
            targets.update(row.ids[1:][row.trained].tolist())
            breaks = (np.flatnonzero(np.diff(row.ids[:filled]) != 1) + 1).tolist()
            assert {*breaks, filled} - {length, length + 1} <= set(row.starts.tolist())
            assert all(at in (0, filled) or at in breaks or int(row.ids[at]) in firsts for at in row.starts.tolist())
            for at in range(filled):
                place_of.setdefault(int(row.ids[at]), (index, at))
        assert windows.packing().padding == padding
        assert max(targets.values(), default=1) == 1
        inner = set(range(bounds[-1])) - firsts
        assert inner <= targets.keys()
        assert across or targets.keys() == inner
        for start, end in itertools.pairwise(bounds):
            row, at = place_of[start]
            if end - start <= length + 1:
                assert [place_of[token] for token in range(start, end)] == [(row, at + k) for k in range(end - start)]
            else:
                assert at == 0  # a long document begins at a window's start


def test_the_windows_are_those_of_the_plain_algorithm() -> None:
    """The tokens in every window, by best fit piece by piece."""
    short = [length for length in LENGTHS if length < 12]
    pieces = [11, 11, 4, *short]  # of a document of 24 tokens: 0 to 10, 10 to 20, 20 to 23
    rooms: list[int] = []
    for piece in sorted(pieces, reverse=True):
        room = min((room for room in rooms if room >= piece), default=11)
        if room in rooms:
            rooms.remove(room)
        rooms.append(room - piece)
    windows = best_fit([24, *short], 10)
    filled = [len(set(row.ids.tolist())) for row in epoch_of(windows)]
    assert sorted(11 - size for size in filled) == sorted(rooms)


def test_a_sample_depends_only_on_seed_and_number() -> None:
    one, other = best_fit(LENGTHS, 20), best_fit(LENGTHS, 20)
    numbers = [400, 3, 77, 0, 3, 12_345, 21]
    forwards = {number: one.sample(number) for number in numbers}
    for number in reversed(numbers):
        for mine, theirs in zip(forwards[number][:3], other.sample(number)[:3], strict=True):
            assert mine.tolist() == theirs.tolist()
    orders = {str([row.ids.tolist() for row in epoch_of(one, number)]) for number in range(3)}
    assert len(orders) == 3


def test_a_batch_counts_only_targets_of_documents() -> None:
    rows = batch(best_fit([11, 4], 10), 0, 2)
    assert int((rows.targets() != IGNORED).sum()) == 10 + 3
    assert rows.cu_seqlens().tolist() in ([0, 10, 14, 20], [0, 4, 10, 20])


def test_too_little_for_one_sequence() -> None:
    with pytest.raises(InputError, match="13 tokens in 2 documents do not fill one sequence of 20"):
        best_fit([5, 8], 20)


def test_joined_windows_cut_documents_that_would_fit() -> None:
    """Half the tokens of documents that fit, where documents are as long as two thirds of a window."""
    lengths = [21] * 300
    joined = TokenWindows(Numbered(lengths), sequence_length=30, seed=0).packing()  # type: ignore[arg-type]
    offsets = np.arange(300) * 21
    cut = sum(1 for start in offsets.tolist() if start + 20 > start // 30 * 30 + 30)
    assert joined.cut_documents == cut
    assert joined.cut_fraction == cut / 300 > 0.5
    assert joined.waste == 0
    packed = best_fit(lengths, 30).packing()
    assert (packed.cut_documents, packed.cut_fraction, packed.sequences) == (0, 0.0, 300)
    assert packed.waste == (30 - 20) / 30
    assert "30.00% padding" not in packed.sentence() and "33.33% padding" in packed.sentence()


@pytest.mark.parametrize("kind", [TokenWindows, BestFitWindows])
def test_without_the_loss_across_documents_their_first_token_is_no_target(kind: type[TokenWindows]) -> None:
    tokens = Numbered(LENGTHS)
    windows = kind(tokens, sequence_length=9, seed=1, across_documents=False)  # type: ignore[arg-type]
    firsts = set(tokens.document_offsets[:-1].tolist())
    seen = set()
    for index in range(windows.windows_per_epoch):
        row = windows.sample(index)
        trained = set(row.ids[1:][row.trained].tolist())
        assert not trained & firsts
        untrained = set(row.ids[1:][~row.trained].tolist())
        seen |= trained
        if kind is TokenWindows:
            assert untrained <= firsts
    assert len(seen) >= sum(LENGTHS) - len(LENGTHS) - 9


def test_stages_and_mixtures_of_packed_windows(tmp_path: Path) -> None:
    write(tmp_path / "train", LENGTHS)
    everything = training_windows(tmp_path, sequence_length=20, seed=0, packing="best_fit")
    long = training_windows(tmp_path, sequence_length=20, seed=0, packing="best_fit", min_document_tokens=22)
    assert isinstance(everything, BestFitWindows)
    mixed = MixedWindows(everything, long, 0.5)
    rows = batch(mixed, 0, 6)
    assert rows.trained is not None and rows.trained.shape == (6, 20)
    assert long.packing().row()["longer_documents"] == 4
