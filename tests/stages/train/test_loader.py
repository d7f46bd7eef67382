"""Tokens of a sample."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from longcat.pipeline.errors import InputError
from longcat.pipeline.tokens import TokenFile, TokenWriter
from longcat.stages.formats.training_windows import MixedWindows
from longcat.stages.formats.validation_windows import validation_windows
from longcat.stages.formats.windows import IGNORED, TokenWindows, Window, batch

LENGTHS = [3, 17, 1, 40, 8, 25, 2, 64, 5, 5, 31]


def write(prefix: Path, lengths: list[int]) -> TokenFile:
    """Documents in which every token of the file is a different number."""
    total = sum(lengths)
    with TokenWriter(prefix, total) as writer:
        ids = iter(range(total))
        for length in lengths:
            writer.add_document([next(ids) for _ in range(length)])
    return TokenFile(prefix)


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return write(tmp_path / "train", LENGTHS)


@pytest.mark.parametrize("sequence_length", [1, 7, 16, 50, 200])
def test_an_epoch_has_every_target_once(tokens: TokenFile, sequence_length: int) -> None:
    windows = TokenWindows(tokens, sequence_length=sequence_length, seed=3)
    for epoch in range(3):
        first = epoch * windows.windows_per_epoch
        rows = [windows.sample(first + index).ids for index in range(windows.windows_per_epoch)]
        assert all(len(row) == sequence_length + 1 for row in rows)
        targets = np.concatenate([row[1:] for row in rows])
        assert len(set(targets)) == len(targets) == (sum(LENGTHS) - 1) // sequence_length * sequence_length


def test_samples_of_a_batch_are_far_apart(tmp_path: Path) -> None:
    windows = TokenWindows(write(tmp_path / "one", [4001]), sequence_length=4, seed=0)
    places = sorted(int(row[0]) for row in batch(windows, 1234, 8).ids)
    assert min(np.diff(places)) > 4001 / 8 / 3


def test_documents_are_contiguous(tokens: TokenFile) -> None:
    windows = TokenWindows(tokens, sequence_length=sum(LENGTHS) - 1, seed=0)
    stream = windows.sample(0).ids
    breaks = [0, *(np.flatnonzero(np.diff(stream) != 1) + 1).tolist(), len(stream)]
    starts = set(tokens.document_offsets.tolist())
    assert {int(stream[place]) for place in breaks[:-1]} <= starts
    assert sorted(stream.tolist()) == list(range(sum(LENGTHS)))


def test_a_sample_depends_only_on_its_number(tokens: TokenFile) -> None:
    one = TokenWindows(tokens, sequence_length=9, seed=5)
    other = TokenWindows(tokens, sequence_length=9, seed=5)
    numbers = [400, 3, 77, 0, 3, 12_345, 21]
    forwards = {number: one.sample(number).ids.tolist() for number in numbers}
    backwards = {number: other.sample(number).ids.tolist() for number in reversed(numbers)}
    assert forwards == backwards
    assert batch(one, 75, 4).ids[2].tolist() == forwards[77]


def test_epochs_and_seeds_have_different_orders(tokens: TokenFile) -> None:
    windows = TokenWindows(tokens, sequence_length=200, seed=0)
    orders = [windows.sample(epoch).ids.tolist() for epoch in range(3)]
    orders.append(TokenWindows(tokens, sequence_length=200, seed=1).sample(0).ids.tolist())
    assert len({tuple(order) for order in orders}) == 4


def test_only_long_documents(tokens: TokenFile) -> None:
    windows = TokenWindows(tokens, sequence_length=10, seed=0, min_document_tokens=31)
    kept = np.concatenate([tokens.document(number) for number in (3, 7, 10)])
    assert windows.documents.total == 40 + 64 + 31
    assert set(np.concatenate([windows.sample(index).ids for index in range(60)])) <= set(kept)


def test_without_long_documents_the_error_has_the_lengths(tokens: TokenFile) -> None:
    with pytest.raises(InputError) as caught:
        TokenWindows(tokens, sequence_length=10, seed=0, min_document_tokens=100)
    assert caught.value.what == (
        "no document has 100 tokens or more; of 11 documents the longest has 64 (1 of 64 or more)"
    )
    assert "min_document_tokens" in str(caught.value.hint)


def test_too_little_for_one_sequence(tokens: TokenFile) -> None:
    with pytest.raises(InputError, match="201 tokens in 11 documents do not fill one sequence of 500"):
        TokenWindows(tokens, sequence_length=500, seed=0)


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no documents"):
        TokenWindows(write(tmp_path / "empty", []), sequence_length=4, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 1 / 3, 0.999, 1.0])
def test_mixture_uses_its_share_and_omits_no_sample(fraction: float) -> None:
    class Numbered:
        windows_per_epoch = 1000

        def __init__(self, sign: int) -> None:
            self.sign = sign

        def sample(self, number: int) -> Window:
            return Window(np.array([self.sign * (number + 1)]), np.zeros(1, dtype=np.int64))

    mixed = MixedWindows(Numbered(1), Numbered(-1), fraction)
    taken = [int(mixed.sample(sample).ids[0]) for sample in range(1000)]
    second = [-number for number in taken if number < 0]
    assert second == list(range(1, len(second) + 1))
    assert [number for number in taken if number > 0] == list(range(1, 1001 - len(second)))
    assert abs(len(second) - 1000 * fraction) <= 1


def test_validation_windows_are_spread_and_padded(tokens: TokenFile) -> None:
    inputs, targets, starts = validation_windows(tokens, 50, 10)
    assert inputs.shape == targets.shape == (4, 50)
    assert targets[targets != IGNORED].tolist() == list(range(1, 201))
    assert validation_windows(tokens, 30, 3)[0][:, 0].tolist() == [0, 60, 120]
    assert [places.tolist() for places in starts] == [[0, 3, 20, 21], [0, 11, 19, 44, 46], [0], [0, 10, 15, 20]]
    windows = validation_windows(tokens, 50, 10)
    assert windows.rows(0, 2).cu_seqlens().tolist() == [0, 3, 20, 21, 50, 61, 69, 94, 96, 100]
    assert windows.rows(0, 1).cu_seqlens(20).tolist() == [0, 3, 20]
    assert validation_windows(tokens, 50, 10, document_mask=False).cu_seqlens() is None
    few, padded, _ = validation_windows(tokens, 500, 10)
    assert few.shape == (1, 500)
    assert (padded != IGNORED).sum() == 200


def test_validation_without_tokens(tmp_path: Path) -> None:
    assert len(validation_windows(write(tmp_path / "none", []), 8, 4)[0]) == 0
    assert len(validation_windows(write(tmp_path / "one", [1]), 8, 4)[0]) == 0


def test_starts_immediately_with_a_billion_tokens(tmp_path: Path) -> None:
    documents, length = 1_000_000, 1000
    prefix = tmp_path / "large"
    writer = TokenWriter(prefix, 100)
    writer._lengths = [length] * documents
    writer.finish()
    with prefix.with_suffix(".bin").open("r+b") as stream:
        stream.truncate(2 * documents * length)  # a sparse file: no disk is used
    began = time.process_time()
    windows = TokenWindows(TokenFile(prefix), sequence_length=4096, seed=0)
    assert windows.sample(123_456).ids.shape == (4097,)
    assert time.process_time() - began < 1


def test_document_bounds_of_a_batch(tokens: TokenFile) -> None:
    """The bounds split the flattened rows exactly before tokens that start a document."""
    windows = TokenWindows(tokens, sequence_length=50, seed=3)
    rows = batch(windows, 2, 3)
    bounds = rows.cu_seqlens()
    assert bounds.dtype == np.int32 and bounds[0] == 0 and bounds[-1] == 150
    firsts = {int(tokens.document(number)[0]) for number in range(tokens.n_documents)}
    begins = [place for place, token in enumerate(rows.ids[:, :-1].ravel()) if int(token) in firsts]
    assert sorted({*begins, 0, 50, 100, 150}) == bounds.tolist()
    assert rows.rows(1, 2).cu_seqlens().tolist() == [b - 50 for b in bounds.tolist() if 50 <= b <= 100]
