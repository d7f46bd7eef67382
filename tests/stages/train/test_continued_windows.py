"""Data that goes on in sequences of another length or packing, by hand."""

from __future__ import annotations

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
from longcat.stages.formats.windows import PackedSource, TokenWindows

# Ids of the tokens are their positions in the file: documents 0-2, 3-19, 20, 21-60, 61-68, ...
LENGTHS = [3, 17, 1, 40, 8, 25, 2, 33, 4, 67]
AT = DataPosition(tokens="t", seed=0, sequence_length=10, min_document_tokens=0)


def array(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def write(path: Path, lengths: Sequence[int]) -> TokenFile:
    with TokenWriter(path / "train", 1000) as writer:
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
    def source(sequence_length: int, packing: Packing) -> PackedSource:
        return SOURCES[packing](tokens, sequence_length=sequence_length, seed=0)

    return source


def inputs(windows: ContinuedWindows, numbers: range) -> list[int]:
    """Tokens of some samples, without the one after each and without padding."""
    found = []
    for number in numbers:
        window = windows.sample(number)
        kept = len(window.ids) - 1 if window.trained is None else int(window.trained.nonzero()[0].max()) + 1
        found += window.ids[:kept].tolist()
    return found


def test_ranges() -> None:
    read = ReadTokens.of(array(20, 3, 5, 30), array(25, 7, 6, 31))
    assert (read.starts.tolist(), read.ends.tolist(), read.total) == ([3, 20, 30], [7, 25, 31], 10)
    assert read.within(array(0, 4, 6, 22, 0), array(3, 6, 21, 31, 99)).tolist() == [0, 2, 2, 4, 10]
    assert ReadTokens.of(array(0, 10), array(10, 15)).starts.tolist() == [0]
    assert ReadTokens.nothing().within(array(0), array(9)).tolist() == [0]
    assert (read | ReadTokens.of(array(6), array(20))).starts.tolist() == [3, 30]
    cut = read.between(5, 21)
    assert (cut.starts.tolist(), cut.ends.tolist()) == ([0, 15], [2, 16])


def test_the_same_sequences_go_on_in_their_order(source_of: SourceOf) -> None:
    at = AT.model_copy(update={"position": 8})
    assert go_on(at, 10, "joined", source_of) is at
    plain, windows = source_of(10, "joined"), windows_at(at, source_of)
    for number in range(45):
        assert windows.sample(number).ids.tolist() == plain.sample(number).ids.tolist()
    assert windows.epochs(30) == 30 / 19


def test_shorter_sequences_read_exactly_what_was_not_read(source_of: SourceOf) -> None:
    """200 tokens are 19 windows of 10; after 8 of them 11 are left, which are 22 windows of 5, and one of the rest."""
    old = windows_at(AT, source_of)
    at = go_on(AT.model_copy(update={"position": 8}), 5, "joined", source_of)
    assert (at.position, at.epoch, at.tokens_before) == (0, 0, 80)
    assert at.read == (Reading(sequence_length=10, packing="joined", samples=8),)
    windows = windows_at(at, source_of)
    assert windows.rest_windows == 23
    first, second = inputs(old, range(8)), inputs(windows, range(23))
    assert len(set(first)) == 80 and len(set(second)) == 115
    assert not set(first) & set(second)
    assert windows.seen(0, 23) == 0
    # The next epoch is a whole one, in its own order.
    assert windows.sample(23).ids.tolist() == source_of(5, "joined").sample(39).ids.tolist()
    assert windows.epochs(0) == pytest.approx(80 / 200)
    assert windows.epochs(23) == 1
    # Of 30 samples 23 are new, and of the 7 others 80 in 200 tokens were read before.
    assert windows.seen(0, 30) == pytest.approx(7 * 0.4 / 30)


def test_longer_sequences_read_the_windows_with_the_fewest_read_tokens(source_of: SourceOf) -> None:
    """After 5 of 19 windows of 10, 149 tokens with a next one are left: 7 windows of 20, of 9."""
    plain = TokenWindows(source_of(10, "joined").documents.tokens, sequence_length=10, seed=0)
    read = {plain.window(index) for index in range(5)}
    at = go_on(AT.model_copy(update={"position": 5}), 20, "joined", source_of)
    windows = windows_at(at, source_of)
    assert windows.rest_windows == 7
    overlap = {number: 10 * len({2 * number, 2 * number + 1} & read) for number in range(9)}
    chosen = windows.rest.chosen.tolist()
    assert len(set(chosen)) == 7
    assert [overlap[number] for number in chosen] == sorted(overlap.values())[:7]
    again = len(set(inputs(windows_at(AT, source_of), range(5))) & set(inputs(windows, range(7))))
    assert again == sum(overlap[number] for number in chosen)
    assert windows.seen(0, 7) == pytest.approx(again / 140)
    assert windows.seen(0, 3) == 0  # the unread ones are first


def test_best_fit_reads_the_documents_with_the_smallest_read_shares(source_of: SourceOf) -> None:
    at = go_on(AT.model_copy(update={"position": 5}), 30, "best_fit", source_of)
    windows = windows_at(at, source_of)
    assert isinstance(windows.source, BestFitWindows)
    old = set(inputs(windows_at(AT, source_of), range(5)))
    offsets = np.cumsum([0, *LENGTHS])
    shares = sorted(
        (len(old & set(range(start, end))) / (end - start), end - start)
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    )
    documents = {
        int(np.searchsorted(offsets, token, side="right")) - 1 for token in inputs(windows, range(windows.rest_windows))
    }
    # Whole documents, in ascending shares, with at most the 150 unread tokens.
    kept, total = [], 0
    for share, length in shares:
        if total + length > 150:
            break
        kept.append(share)
        total += length
    assert sum(LENGTHS[document] for document in documents) == total
    assert len(documents) == len(kept)
    assert windows.seen(0, windows.rest_windows) <= windows.read.total / 200


def test_a_chain_of_lengths_and_packings_reads_an_epoch_and_no_token_twice(tmp_path: Path) -> None:
    """Documents of one token each: every packing can read exactly what is left."""
    tokens = write(tmp_path, [1] * 121)

    def source_of(sequence_length: int, packing: Packing) -> PackedSource:
        return SOURCES[packing](tokens, sequence_length=sequence_length, seed=3)

    at, seen = AT.model_copy(update={"seed": 3, "sequence_length": 12}), []
    for samples, (length, packing) in zip((4, 3, 5), ((6, "joined"), (3, "best_fit"), (6, "joined")), strict=True):
        seen += inputs(windows_at(at, source_of), range(samples))
        at = go_on(at.model_copy(update={"position": samples}), length, packing, source_of)
    assert [(one.sequence_length, one.samples) for one in at.read] == [(12, 4), (6, 3), (3, 5)]
    windows = windows_at(at, source_of)
    rest = inputs(windows, range(windows.rest_windows))
    assert len(set(seen)) == len(seen)
    assert len(set(seen) & set(rest)) <= 5  # a packed window has the token after its inputs, too
    assert len(set(seen) | set(rest)) >= 110


def test_a_position_in_a_later_epoch(source_of: SourceOf) -> None:
    at = go_on(AT.model_copy(update={"position": 2 * 19 + 4}), 5, "joined", source_of)
    assert (at.epoch, at.read) == (2, (Reading(sequence_length=10, packing="joined", samples=4),))
    windows = windows_at(at, source_of)
    assert windows.rest_windows == 39 - 8
    assert windows.seen(0, 10) == 1
    assert windows.epochs(0) == pytest.approx(2.2)
    again = go_on(at.model_copy(update={"position": 31}), 10, "joined", source_of)
    assert (again.epoch, again.read, again.tokens_before) == (3, (), 42 * 10 + 31 * 5)


def test_the_stages_of_a_curriculum_go_on_in_order(tokens: TokenFile) -> None:
    """Documents 0-4 (69 tokens) and 5-9 (131): 6 and 13 windows of 10, 13 and 26 of 5."""

    def source_of(sequence_length: int, packing: Packing) -> PackedSource:
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
    assert windows.rest_windows == 1 + 20
    rest = inputs(windows, range(21))
    assert not set(old) & set(rest)
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
