"""Data that goes on in sequences of another length or packing, by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from longcat.pipeline.tokens import TokenFile, TokenWriter
from longcat.stages.formats.best_fit_windows import BestFitWindows
from longcat.stages.formats.continued_windows import ContinuedWindows, SourceOf, go_on, windows_at
from longcat.stages.formats.read_tokens import ReadTokens
from longcat.stages.formats.training_state import DataPosition, Packing, Reading, TrainingState
from longcat.stages.formats.training_windows import SOURCES, MixedWindows, StagedWindows
from longcat.stages.formats.windows import EpochPart, PackedSource

# Ids of the tokens are their positions in the file: documents 0-2, 3-19, 20, 21-60, 61-68, ...
LENGTHS = [3, 17, 1, 40, 8, 25, 2, 33, 4, 67]
AT = DataPosition(tokens="t", seed=0, sequence_length=10, min_document_tokens=0)


def array(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def write(path: Path, lengths: Sequence[int]) -> TokenFile:
    with TokenWriter(path / "train", 2000) as writer:
        start = 0
        for length in lengths:
            writer.add_document(np.arange(start, start + length))
            start += length
    return TokenFile(path / "train")


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return write(tmp_path, LENGTHS)


@pytest.fixture
def source_of(tokens: TokenFile) -> SourceOf:
    def source(sequence_length: int, packing: Packing) -> PackedSource[EpochPart]:
        return SOURCES[packing](tokens, sequence_length=sequence_length, seed=0)

    return source


def pairs(windows: ContinuedWindows, numbers: range) -> list[tuple[int, int]]:
    """Inputs of some samples with their targets, those that are trained."""
    found = []
    for number in numbers:
        window = windows.sample(number)
        trained = np.ones(len(window.ids) - 1, dtype=bool) if window.trained is None else window.trained
        at = np.flatnonzero(trained)
        found += list(zip(window.ids[at].tolist(), window.ids[at + 1].tolist(), strict=True))
        apart = np.flatnonzero(np.diff(window.ids[: at.max(initial=0) + 1]) != 1) + 1
        assert set(apart.tolist()) <= set(window.starts.tolist())  # tokens that lie apart are other documents
    return found


def inputs(windows: ContinuedWindows, numbers: range) -> list[int]:
    return [first for first, _ in pairs(windows, numbers)]


def follows(lengths: Sequence[int]) -> set[tuple[int, int]]:
    """Every token with the next one of its document."""
    ends = np.cumsum(lengths)
    return {(token, token + 1) for token in range(int(ends[-1]) - 1) if token + 1 not in ends}


def test_ranges() -> None:
    read = ReadTokens.of(array(20, 3, 5, 30), array(25, 7, 6, 31))
    assert (read.starts.tolist(), read.ends.tolist(), read.total) == ([3, 20, 30], [7, 25, 31], 10)
    assert read.within(array(0, 4, 6, 22, 0), array(3, 6, 21, 31, 99)).tolist() == [0, 2, 2, 4, 10]
    assert ReadTokens.of(array(0, 10), array(10, 15)).starts.tolist() == [0]
    assert ReadTokens.nothing().within(array(0), array(9)).tolist() == [0]
    assert (read | ReadTokens.of(array(6), array(20))).starts.tolist() == [3, 30]
    number, starts, ends = read.pieces(array(0, 4, 9, 22), array(4, 9, 22, 40))
    assert list(zip(number.tolist(), starts.tolist(), ends.tolist(), strict=True)) == [
        (0, 3, 4),
        (1, 4, 7),
        (2, 20, 22),
        (3, 22, 25),
        (3, 30, 31),
    ]
    left = read.left(array(0, 10, 22), array(10, 22, 33), whole=False)
    assert (left.starts.tolist(), left.ends.tolist()) == ([0, 7, 25, 31], [3, 20, 30, 33])
    # Read shares are 4 in 10, 2 in 12, 4 in 11: the second fits into the 23 unread tokens, the third no more.
    least = read.left(array(0, 10, 22), array(10, 22, 33), whole=True)
    assert (least.starts.tolist(), least.ends.tolist()) == ([10], [33])
    cut = read.between(5, 21)
    assert (cut.starts.tolist(), cut.ends.tolist()) == ([0, 15], [2, 16])


def test_the_same_sequences_go_on_in_their_order(source_of: SourceOf) -> None:
    at = AT.model_copy(update={"position": 8})
    assert go_on(at, 10, "joined", source_of) is at
    plain, windows = source_of(10, "joined"), windows_at(at, source_of)
    for number in range(45):
        assert windows.sample(number).ids.tolist() == plain.sample(number).ids.tolist()
    assert windows.epochs(30) == 30 / 19


def test_other_sequences_go_on_with_what_was_not_read(source_of: SourceOf) -> None:
    """200 tokens are 19 windows of 10, of which 8 were read; then windows of 5 until the epoch ends."""
    old = windows_at(AT, source_of)
    at = go_on(AT.model_copy(update={"position": 8}), 5, "joined", source_of)
    assert (at.position, at.epoch, at.tokens_before) == (0, 0, 80)
    assert at.read == (Reading(sequence_length=10, packing="joined", samples=8),)
    windows = windows_at(at, source_of)
    left = windows.rest_windows
    first, second = inputs(old, range(8)), inputs(windows, range(left))
    assert len(set(first)) == 80
    assert not set(first) & set(second)
    assert windows.seen(0, left) == 0
    # The next epoch is a whole one, in its own order.
    assert windows.sample(left).ids.tolist() == source_of(5, "joined").sample(39).ids.tolist()
    assert windows.epochs(0) == pytest.approx(80 / 200)
    assert windows.epochs(left) == 1
    # The samples of the rest are new, and of the tokens of the 7 others 80 in 200 were read before.
    assert windows.seen(0, left + 7) == pytest.approx(7 * 0.4 / (left + 7))


@pytest.mark.parametrize("case", range(60))
def test_any_chain_of_lengths_and_packings_reads_an_epoch_once(tmp_path: Path, case: int) -> None:
    """Every token with its next one is trained exactly once but for the last, incomplete window."""
    random = np.random.default_rng(case)
    lengths = [*random.integers(1, 60, size=30).tolist(), 400]
    tokens = write(tmp_path, lengths)

    def source_of(sequence_length: int, packing: Packing) -> PackedSource[EpochPart]:
        return SOURCES[packing](tokens, sequence_length=sequence_length, seed=case)

    at, trained = DataPosition(tokens="t", seed=case, sequence_length=11, min_document_tokens=0), Counter()
    for _ in range(4):
        windows = windows_at(at, source_of)
        samples = int(random.integers(0, max(1, windows.rest_windows // 2)))
        trained.update(pairs(windows, range(samples)))
        at = at.model_copy(update={"position": samples})
        length, packing = int(random.integers(1, 90)), ("joined", "best_fit")[int(random.integers(2))]
        at = go_on(at, length, packing, source_of)  # type: ignore[arg-type]
    windows = windows_at(at, source_of)
    trained.update(pairs(windows, range(at.position, windows.rest_windows)))
    wanted = follows(lengths)
    assert max(trained[pair] for pair in wanted) == 1
    missing = sum(trained[pair] == 0 for pair in wanted)
    assert missing <= (at.sequence_length if at.packing == "joined" else 0)
    # Of other pairs there are only those of the end of a document and the beginning of another.
    ends = np.cumsum(lengths)
    assert {(a + 1 in ends, b == 0 or b in ends) for a, b in trained if (a, b) not in wanted} <= {(True, True)}


def test_an_extension_reads_the_whole_documents_that_were_read_least(source_of: SourceOf) -> None:
    at = go_on(AT.model_copy(update={"position": 5}), 30, "best_fit", source_of, whole=True)
    windows = windows_at(at, source_of)
    assert isinstance(windows.source, BestFitWindows)
    old = set(inputs(windows_at(AT, source_of), range(5)))
    offsets = np.cumsum([0, *LENGTHS])
    shares = sorted(
        (len(old & set(range(start, end))) / (end - start), end - start)
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    )
    ids = {int(token) for number in range(windows.rest_windows) for token in windows.sample(number).ids}
    documents = {int(np.searchsorted(offsets, token, side="right")) - 1 for token in ids}
    # Whole documents, in ascending shares, with at most the 150 unread tokens.
    kept, total = [], 0
    for share, length in shares:
        if total + length > 150:
            break
        kept.append(share)
        total += length
    assert sum(LENGTHS[document] for document in documents) == len(ids) == total
    assert len(documents) == len(kept)
    assert 0 < windows.seen(0, windows.rest_windows) <= windows.read.total / 200
    after = go_on(at.model_copy(update={"position": 2}), 40, "best_fit", source_of, whole=True)
    assert after.read[-1] == Reading(sequence_length=30, packing="best_fit", whole=True, samples=2)


def test_an_epoch_that_was_read_has_nothing_left(source_of: SourceOf) -> None:
    for position in (18, 19):
        at = go_on(AT.model_copy(update={"position": position}), 60, "joined", source_of)
        windows = windows_at(at, source_of)
        assert (windows.rest_windows, windows.place(0)) == ((0, (1, 0)) if position == 18 else (3, (1, 0)))
        assert windows.seen(0, 2) == 1


def test_a_position_in_a_later_epoch(source_of: SourceOf) -> None:
    at = go_on(AT.model_copy(update={"position": 2 * 19 + 4}), 5, "joined", source_of)
    assert (at.epoch, at.read) == (2, (Reading(sequence_length=10, packing="joined", samples=4),))
    windows = windows_at(at, source_of)
    assert windows.seen(0, 10) == 1
    assert windows.epochs(0) == pytest.approx(2.2)
    again = go_on(at.model_copy(update={"position": windows.rest_windows}), 10, "joined", source_of)
    assert (again.epoch, again.read, again.tokens_before) == (3, (), 42 * 10 + windows.rest_windows * 5)


def test_the_stages_of_a_curriculum_go_on_in_order(tokens: TokenFile) -> None:
    """Documents 0-4 (69 tokens) and 5-9 (131): 6 and 13 windows of 10, 13 and 26 of 5."""

    def source_of(sequence_length: int, packing: Packing) -> PackedSource[EpochPart]:
        return StagedWindows(
            [
                SOURCES[packing](tokens, sequence_length=sequence_length, seed=0, documents=documents)
                for documents in (range(5), range(5, 10))
            ]
        )

    old = inputs(windows_at(AT, source_of), range(9))
    at = go_on(AT.model_copy(update={"position": 9}), 5, "joined", source_of)
    windows = windows_at(at, source_of)
    # The first stage is complete but for its last tokens (68 - 60 = 8: one window), the second has read 3 of 13.
    rest = inputs(windows, range(windows.rest_windows))
    assert not set(old) & set(rest)
    assert len(set(rest)) >= 5 + 131 - 1 - 3 * 10 - 5
    assert max(rest[:5]) < 69 <= min(rest[5:])


def test_mixed_sources_start_anywhere(source_of: SourceOf) -> None:
    first, second = source_of(10, "joined"), source_of(20, "joined")
    whole, late = MixedWindows(first, second, 0.25), MixedWindows(first, second, 0.25, (6, 2))
    assert whole.numbers(8) == (6, 2)
    for number in range(20):
        assert late.sample(number).ids.tolist() == whole.sample(number + 8).ids.tolist()
    assert late.epochs(4) == 9 / 19


@pytest.mark.parametrize(("fraction", "position", "least"), [(0.25, 75, 0), (0.0, 100, 600)])
def test_an_older_position_in_a_mixture_is_read(fraction: float, position: int, least: int) -> None:
    values = {"tokens": "t", "seed": 0, "sequence_length": 8, "min_document_tokens": 600, "position": 100}
    found = DataPosition.model_validate(values | {"long_document_fraction": fraction})
    assert (found.position, found.min_document_tokens, found.tokens_read) == (position, least, position * 8)


def test_streams_are_kept_until_they_are_read_again() -> None:
    other, long = AT.model_copy(update={"tokens": "u"}), AT.model_copy(update={"min_document_tokens": 9})
    state = TrainingState(data=AT, other_data=(long,))
    after = TrainingState(**state.after_reading(other))
    assert after.streams == (other, AT, long)
    moved = long.model_copy(update={"position": 5})
    assert TrainingState(**after.after_reading(AT, moved)).streams == (AT, moved, other)
