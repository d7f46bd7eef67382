"""Token files: round trip, boundaries, element types, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.tokens import TokenFile, TokenWriter, dtype_for


@pytest.mark.parametrize("vocabulary", [100, 65499, 65500, 131072])
def test_round_trip(tmp_path: Path, vocabulary: int) -> None:
    documents = [np.array([1, 2, vocabulary - 1]), np.array([], dtype=int), np.arange(50)]
    with TokenWriter(tmp_path / "train", vocabulary) as writer:
        for document in documents:
            writer.add_document(document)
    found = TokenFile(tmp_path / "train")
    assert found.dtype is dtype_for(vocabulary)
    assert (found.n_documents, found.total_tokens) == (3, 53)
    assert found.document_offsets.tolist() == [0, 3, 3, 53]
    for number, document in enumerate(documents):
        assert found.document(number).tolist() == document.tolist()


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    for bad in ([-1], [100]):
        with pytest.raises(InputError, match="vocabulary of 100"), TokenWriter(tmp_path / "t", 100) as writer:
            writer.add_document(bad)


def test_no_tokens_at_all(tmp_path: Path) -> None:
    with TokenWriter(tmp_path / "t", 100):
        pass
    assert TokenFile(tmp_path / "t").total_tokens == 0


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_damage_is_named(tmp_path: Path, suffix: str) -> None:
    with TokenWriter(tmp_path / "t", 100) as writer:
        writer.add_document([1, 2, 3])
    path = tmp_path / f"t{suffix}"
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"x", b""):
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=f"t{suffix}"):
            TokenFile(tmp_path / "t")
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        TokenFile(tmp_path / "t")
