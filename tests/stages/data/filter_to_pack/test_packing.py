"""The index of best-fit packing: every token once, no sequence too long, as full as best fit makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document
from longcat.pipeline.errors import ConfigError, IntegrityError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.pack.packing import LENGTH, SEQUENCE, START, PackIndex, index_name, pack, write_pack

MakeDocuments = Callable[..., Artifact]


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """The rooms left, by the plain algorithm, piece by piece."""
    pieces = [capacity] * sum(length // capacity for length in lengths)
    pieces += [length % capacity for length in lengths if length % capacity]
    rooms: list[int] = []
    for piece in sorted(pieces, reverse=True):
        fitting = [room for room in rooms if room >= piece]
        room = min(fitting, default=capacity)
        if fitting:
            rooms.remove(room)
        rooms.append(room - piece)
    return sorted(rooms)


@given(st.lists(st.integers(1, 60), max_size=120), st.integers(2, 40))
def test_every_token_is_in_one_sequence_and_none_is_too_long(lengths: list[int], capacity: int) -> None:
    offsets = offsets_of(lengths)
    index = pack(offsets, capacity)
    in_file_order = index[np.argsort(index[:, START])]
    ends = in_file_order[:, START] + in_file_order[:, LENGTH]
    assert in_file_order[:, START].tolist() == [0, *ends[:-1].tolist()][: len(index)]
    assert (ends[-1] if len(ends) else 0) == offsets[-1]
    filled = np.bincount(index[:, SEQUENCE], weights=index[:, LENGTH]).astype(int)
    assert sorted((capacity - filled).tolist()) == best_fit_decreasing(lengths, capacity)
    # A piece lies within one document, and only documents that no sequence holds are cut.
    document = np.searchsorted(offsets, index[:, START], side="right") - 1
    assert (index[:, START] + index[:, LENGTH] <= offsets[1:][document]).all()
    whole = np.diff(offsets)[document] <= capacity
    assert (index[whole, LENGTH] == np.diff(offsets)[document][whole]).all()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(2, 40))
def test_sequences_and_their_pieces_come_in_the_order_of_the_file(lengths: list[int], capacity: int) -> None:
    index = pack(offsets_of(lengths), capacity)
    assert index[0, SEQUENCE] == 0
    assert set(np.diff(index[:, SEQUENCE]).tolist()) <= {0, 1}
    same = np.diff(index[:, SEQUENCE]) == 0
    assert (np.diff(index[:, START])[same] > 0).all()
    firsts = index[np.flatnonzero(np.diff(index[:, SEQUENCE], prepend=-1)), START]
    assert (np.diff(firsts) > 0).all()


def test_a_known_example(tmp_path: Path) -> None:
    """A cut document, two that fill a sequence together, and one that is left alone."""
    path = tmp_path / "train.pack-10.npy"
    told = write_pack(path, offsets_of([13, 4, 6, 8]), 10)
    assert told == {"sequences": 4, "pieces": 5, "cut_documents": 1, "waste": round(9 / 40, 6)}
    index = PackIndex(path)
    assert [index.pieces(number) for number in range(len(index))] == [
        [(0, 10)],
        [(10, 3)],
        [(13, 4), (17, 6)],
        [(23, 8)],
    ]


def test_the_stage_writes_what_was_asked_for(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    documents = make_documents([Document(f"d{n}", prose[: 20 * n + 30], "s") for n in range(40)])
    tokenizer = run_stage(session, "data.tokenizer", {"vocab_size": 300}, {"documents": documents}).artifact
    inputs = {"documents": documents, "tokenizer": tokenizer}
    artifact = run_stage(session, "data.pack", {"pack_lengths": [256, 64]}, inputs).artifact
    file = TokenFile(artifact.path / "train")
    for length in (64, 256):
        index = PackIndex(artifact.file(index_name("train", length)))
        told = artifact.manifest.metrics["packing"][str(length)]
        pieces = [piece for number in range(len(index)) for piece in index.pieces(number)]
        assert sum(size for _, size in pieces) == file.total_tokens
        assert (told["sequences"], told["pieces"]) == (len(index), len(pieces))
        assert told["waste"] == round(1 - file.total_tokens / (len(index) * length), 6) < 0.2
    plain = run_stage(session, "data.pack", {}, inputs).artifact
    assert "packing" not in plain.manifest.metrics
    assert not list(plain.path.glob("*.npy"))
    with pytest.raises(ConfigError, match="pack_lengths"):
        run_stage(session, "data.pack", {"pack_lengths": [1]}, inputs)


def test_other_files_are_no_index(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.arange(3))
    (tmp_path / "text.npy").write_text("no array")
    for name in ("flat.npy", "text.npy", "missing.npy"):
        with pytest.raises(IntegrityError, match="not a packing index"):
            PackIndex(tmp_path / name)
