"""Safetensors files as byte ranges, compared with the files of the library."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.model import safetensors_files
from longcat.model.errors import CheckpointError
from longcat.model.safetensors_files import Copied, copied_size, read_header, write_copies


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    plain = {
        "b": torch.randn(3, 5),
        "a": torch.randn(2, 2).to(torch.bfloat16),
        "c": torch.randn(7).to(torch.float16),
        "scalar": torch.tensor(4.0),
        "empty": torch.zeros(0, 3),
        "wide": torch.randn(2, dtype=torch.float64),
        "größe": torch.randn(1),
    }
    return plain | {"ids": torch.arange(3), "short": torch.arange(3).to(torch.int16), "flag": torch.tensor([True])}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_copy_has_the_bytes_that_the_library_writes(
    metadata: dict[str, str] | None,
    tensors: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(safetensors_files, "COPIED_BYTES", 16)
    save_file(tensors, tmp_path / "source", metadata=metadata)
    stored = read_header(tmp_path / "source")
    assert {key: (entry.shape, entry.nbytes) for key, entry in stored.items()} == {
        key: (tuple(tensor.shape), tensor.nbytes) for key, tensor in tensors.items()
    }
    copies = {key: Copied(tmp_path, entry) for key, entry in stored.items()}
    write_copies(tmp_path / "copy", copies, metadata)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "source").read_bytes()
    assert copied_size(copies, metadata) == (tmp_path / "copy").stat().st_size


def test_values_may_be_divided_or_replaced_by_zeros(
    tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_files, "COPIED_BYTES", 16)
    save_file(tensors, tmp_path / "source")
    stored = read_header(tmp_path / "source")
    copies = {f"{key}/3": Copied(tmp_path, stored[key], 3) for key in ("a", "b", "c", "scalar", "wide", "empty")}
    write_copies(tmp_path / "copy", copies | {"zero": Copied(tmp_path, stored["b"], math.inf)})
    found = load_file(tmp_path / "copy")
    assert torch.equal(found.pop("zero"), torch.zeros(3, 5))
    assert found.keys() == copies.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, tensors[key[:-2]] / 3)


def test_a_source_that_became_shorter_is_an_error(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "source")
    last = max(read_header(tmp_path / "source").values(), key=lambda entry: entry.start)
    (tmp_path / "source").write_bytes((tmp_path / "source").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="source: became shorter"):
        write_copies(tmp_path / "copy", {"x": Copied(tmp_path, last)})
    with pytest.raises(CheckpointError, match="source: damaged"):
        read_header(tmp_path / "source")
