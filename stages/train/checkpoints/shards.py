"""Tensors of a run as safetensors files, one per process, readable by any number of processes.

A file holds the pieces written by its process. The metadata entry `pieces` in the safetensors header maps each key to
its tensor: `{key: [name, full shape, offsets]}`. A tensor or piece that several processes hold is written by one of
them.

Sizes below are in elements along each dimension, offsets in elements from the start of the whole tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from longcat.model.files import fault_of
from longcat.pipeline.errors import IntegrityError
from longcat.stages.train.parallel.control import Group

WRITE_BYTES = 8 << 20
HEADER_ALIGNMENT = 8
METADATA_KEY = "pieces"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
STORED_DTYPES = {name: dtype for dtype, name in DTYPES.items()}

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Slice:
    """A piece of a larger tensor held as a plain tensor, such as rows of experts. `shape` is the full shape."""

    tensor: torch.Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


Part = torch.Tensor | Slice


@dataclass(frozen=True)
class Piece:
    """Piece of one named tensor that a process holds."""

    name: str
    tensor: torch.Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def key(self) -> str:
        """Key in a file: the name, with offsets if it is not the full tensor."""
        if tuple(self.tensor.shape) == self.shape:
            return self.name
        return f"{self.name}@{','.join(map(str, self.offsets))}"

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


def piece_of(name: str, part: Part) -> Piece:
    """Local piece of a plain tensor (all of it), a DTensor or a Slice."""
    if isinstance(part, Slice):
        return Piece(name, part.tensor.detach(), part.shape, part.offsets)
    if not dist.is_initialized():
        return Piece(name, part.detach(), tuple(part.shape), (0,) * part.ndim)
    # Takes a second to import, and is not needed in a single process.
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if isinstance(part, DTensor):
        if any(placement.is_partial() for placement in part.placements):
            raise ValueError(f"{name}: its values are not reduced yet ({part.placements})")
        sizes, offsets = compute_local_shape_and_global_offset(part.shape, part.device_mesh, part.placements)
        local = part.to_local().detach()
        if 0 in sizes:  # torch returns no valid offsets for an empty piece
            return Piece(name, local, tuple(part.shape), (0,) * part.ndim)
        return Piece(name, local, tuple(part.shape), tuple(offsets))
    return Piece(name, part.detach(), tuple(part.shape), (0,) * part.ndim)


class ShardPlan:
    """Assignment of pieces to writing processes, recomputed only when the pieces change.

    Every piece is written by its holder with the least bytes so far.
    """

    def __init__(self) -> None:
        self._digest: list[str] = []
        self._mine: set[str] = set()

    def choose(self, pieces: Sequence[Piece], group: Group) -> list[Piece]:
        """Pieces that this process writes; collective.

        Raises:
            ValueError: the pieces of all processes do not cover the full tensors.
        """
        held = [[piece.key, piece.name, list(piece.shape), piece.tensor.numel(), piece.nbytes] for piece in pieces]
        digest = group.gather(hashlib.sha256(json.dumps(held).encode()).hexdigest())
        if digest != self._digest:
            self._mine = _assign(group.gather([entry for entry in held if entry[3]]))[group.rank]
            self._digest = digest
        return [piece for piece in pieces if piece.key in self._mine]


def _assign(held: list[list[list[Any]]]) -> list[set[str]]:
    """Keys that each process writes, from [key, name, shape, elements, bytes] held by each."""
    holders: dict[str, list[int]] = {}
    entries: dict[str, list[Any]] = {}
    for rank, keys in enumerate(held):
        for entry in keys:
            holders.setdefault(entry[0], []).append(rank)
            entries[entry[0]] = entry
    elements: dict[str, int] = {}
    for _, name, _, count, _ in entries.values():
        elements[name] = elements.get(name, 0) + count
    for _, name, shape, _, _ in entries.values():
        if elements[name] != prod(shape):
            raise ValueError(f"{name}: the processes hold {elements[name]} of its {prod(shape)} elements")
    loads = [0] * len(held)
    chosen: list[set[str]] = [set() for _ in held]
    for key, entry in sorted(entries.items(), key=lambda item: (-item[1][4], item[0])):
        rank = min(holders[key], key=lambda holder: (loads[holder], holder))
        loads[rank] += entry[4]
        chosen[rank].add(key)
    return chosen


class Snapshot:
    """Copy of pieces in host memory, in file layout; the memory is reused."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._header = b""
        self._size = 0

    def copy(self, pieces: Sequence[Piece]) -> None:
        """Copy the values; after it returns, the tensors may change."""
        # As usual in safetensors: wide dtypes first, so that each tensor is aligned to its width.
        ordered = sorted(pieces, key=lambda piece: (-piece.tensor.element_size(), piece.key))
        self._size = sum(piece.nbytes for piece in ordered)
        if self._memory.numel() < self._size:
            self._memory = torch.empty(0, dtype=torch.uint8)  # frees the old memory first
            pinned = any(piece.tensor.device.type == "cuda" for piece in pieces)
            self._memory = torch.empty(self._size, dtype=torch.uint8, pin_memory=pinned)
        self._header = _header(ordered)
        start = 0
        for piece in ordered:
            flat = piece.tensor.contiguous().reshape(-1).view(torch.uint8)
            target = self._memory[start : start + piece.nbytes]
            if flat.device.type == "cpu":
                # NumPy copies in this thread only; torch would use cores that training needs.
                np.copyto(target.numpy(), flat.numpy())
            else:
                target.copy_(flat, non_blocking=True)
            start += piece.nbytes

    def write(self, path: Path) -> str:
        """Write the file; returns its SHA-256.

        Raises:
            OSError: for example, the disk is full.
        """
        digest = hashlib.sha256(self._header)
        data = self._memory.numpy().data[: self._size]
        with path.open("wb", buffering=0) as stream:
            _write_all(stream, memoryview(self._header))
            for start in range(0, self._size, WRITE_BYTES):
                block = data[start : start + WRITE_BYTES]
                _write_all(stream, block)
                digest.update(block)
        return digest.hexdigest()


def _write_all(stream: Any, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) :]


def _header(pieces: Sequence[Piece]) -> bytes:
    table = {piece.key: [piece.name, piece.shape, piece.offsets] for piece in pieces}
    entries: dict[str, Any] = {"__metadata__": {METADATA_KEY: json.dumps(table, separators=(",", ":"))}}
    start = 0
    for piece in pieces:
        end = start + piece.nbytes
        entries[piece.key] = {
            "dtype": DTYPES[piece.tensor.dtype],
            "shape": list(piece.tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class _Stored:
    """One piece in a file."""

    file: int
    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class ShardReader:
    """Tensors in a set of files, independent of the writing processes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the headers.

        Raises:
            IntegrityError: a file is not a safetensors file with a table of pieces.
        """
        from safetensors import SafetensorError, safe_open

        self._files: list[Any] = []
        self._where = paths[0].parent if paths else Path()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._stored: dict[str, list[_Stored]] = {}
        for number, path in enumerate(paths):
            try:
                opened = safe_open(path, framework="pt")
                table = json.loads(opened.metadata()[METADATA_KEY])
            except (SafetensorError, OSError, MemoryError, RuntimeError, ValueError, KeyError, TypeError) as error:
                if (fault := fault_of(error, path)) is not None:
                    raise fault from None
                if isinstance(error, (MemoryError, RuntimeError)):
                    raise
                raise IntegrityError(f"damaged: {error}", where=str(path)) from None
            self._files.append(opened)
            for key, (name, shape, offsets) in table.items():
                piece = opened.get_slice(key)
                sizes = tuple(piece.get_shape())
                self._stored.setdefault(name, []).append(_Stored(number, key, tuple(offsets), sizes))
                self.shapes[name], self.dtypes[name] = tuple(shape), STORED_DTYPES[piece.get_dtype()]

    @torch.no_grad()
    def load(self, targets: Mapping[str, Part]) -> None:
        """Fill the local pieces of the targets, in place and on their devices.

        Raises:
            IntegrityError: a tensor is missing or has another shape.
        """
        for name, part in targets.items():
            piece = piece_of(name, part)
            if self.shapes.get(name) != piece.shape:
                found = self.shapes.get(name, "nothing")
                raise IntegrityError(f"{name}: expected {piece.shape}, found {found}", where=str(self._where))
            self._fill(piece)

    def _fill(self, piece: Piece) -> None:
        sizes = tuple(piece.tensor.shape)
        filled = 0
        for stored in self._stored[piece.name]:
            low = [max(a, b) for a, b in zip(piece.offsets, stored.offsets, strict=True)]
            high = [
                min(a + n, b + m) for a, n, b, m in zip(piece.offsets, sizes, stored.offsets, stored.sizes, strict=True)
            ]
            if any(a >= b for a, b in zip(low, high, strict=True)):
                continue
            source = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, stored.offsets, strict=True))
            target = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, piece.offsets, strict=True))
            opened = self._files[stored.file]
            values = opened.get_slice(stored.key)[source] if source else opened.get_tensor(stored.key)
            piece.tensor[target].copy_(values)
            filled += values.numel()
        if filled != piece.tensor.numel():
            raise IntegrityError(
                f"{piece.name}: {filled} of {piece.tensor.numel()} elements found", where=str(self._where)
            )
