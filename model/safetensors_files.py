"""Safetensors files as byte ranges: headers read, and files written, without mapping a file or holding its values.

Layout of a file: 8 bytes with the length of the header (little-endian), the header (a JSON object from key to dtype,
shape and byte range, padded with spaces), the values. A shard is one such file.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from longcat.model.errors import CheckpointError
from longcat.model.files import named, parse_json

MAX_HEADER_BYTES = 100_000_000  # limit of safetensors itself
MAX_DIMENSIONS, MAX_SIZE = 64, 1 << 63  # so that a product of sizes stays small
LENGTH_BYTES, HEADER_ALIGNMENT = 8, 8
METADATA_KEY = "__metadata__"
COPIED_BYTES = 8 << 20  # a multiple of every width
# Bytes of an element, in the order in which safetensors sorts tensors of a file, the last first.
WIDTHS = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2},
    **{"BF16": 2, "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8},
}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_ORDER = {dtype: -place for place, dtype in enumerate(WIDTHS)}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: the file's name, shape, safetensors dtype, and position of its first byte in the file."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * WIDTHS[self.dtype]


@dataclass(frozen=True)
class Copied:
    """A tensor of a new file: the values of `stored` in `folder`, divided by `divisor`; infinity gives zeros.

    `dtype`: the safetensors dtype of the new tensor, None for that of `stored`. A divisor other than 1 and another
    dtype need dtypes of `DTYPES`. `checked`: whether a value that is not finite is an error.
    """

    folder: Path
    stored: Stored
    divisor: float = 1.0
    dtype: str | None = None
    checked: bool = False

    @property
    def written(self) -> Stored:
        """The new tensor."""
        return self.stored if self.dtype is None else replace(self.stored, dtype=self.dtype)


def read_header(path: Path) -> dict[str, Stored]:
    """Tensors of a safetensors file by key.

    Raises:
        CheckpointError: the file is missing, or its header is not strict JSON (readers differ on duplicate keys) or
            contradicts the file.
        OSError: a machine fault, unrelated to the file's content.
    """
    check_regular(path)
    try:
        with named(path), path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"{length} bytes are more than {MAX_HEADER_BYTES}")
            content = file.read(length)
        if len(content) < length:
            raise ValueError(f"{length} bytes are more than the file has")
        first = LENGTH_BYTES + length
        return _tensors(parse_json(content), path.name, first, path.stat().st_size)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file (header: {error})") from None


def _tensors(header: Any, file: str, first: int, end: int) -> dict[str, Stored]:
    """Tensors of a header; their ranges must fill the bytes from `first` to `end`. Raises ValueError."""
    if not isinstance(header, dict):
        raise ValueError("not a JSON object")
    metadata = header.pop(METADATA_KEY, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{METADATA_KEY} is not an object of strings")
    found = {key: _tensor(entry, file, first) for key, entry in header.items()}
    for tensor in sorted(found.values(), key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != first:
            raise ValueError("the byte ranges overlap or have gaps")
        first += tensor.nbytes
    if first != end:
        raise ValueError(f"the byte ranges end at {first}, the file at {end}")
    return found


def _tensor(entry: Any, file: str, first: int) -> Stored:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError("a tensor has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ValueError("a tensor has an unknown dtype")
    if not _whole_numbers(shape, MAX_DIMENSIONS) or not _whole_numbers(offsets, 2) or len(offsets) != 2:
        raise ValueError("a shape or byte range is not a list of whole numbers")
    stored = Stored(file, tuple(shape), dtype, first + offsets[0])
    if offsets[1] - offsets[0] != stored.nbytes:
        raise ValueError("a byte range has not the size of its shape")
    return stored


def _whole_numbers(values: Any, most: int) -> bool:
    """Whether this is a list of at most `most` sizes."""
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(value) is int and 0 <= value < MAX_SIZE for value in values)


def check_regular(path: Path) -> None:
    """Raise CheckpointError if a file is missing, or a pipe or a device, which would be read without end."""
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "the index names this file, but it is missing"
        raise CheckpointError(f"{path}: {problem}")


def copied_size(tensors: Mapping[str, Copied], metadata: Mapping[str, str] | None = None) -> int:
    """Bytes of the file that `write_copies` would write."""
    return len(_header(tensors, metadata)) + sum(tensor.written.nbytes for tensor in tensors.values())


def write_copies(path: Path, tensors: Mapping[str, Copied], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, with `COPIED_BYTES` of it in memory, as the library would write the same values.

    Raises:
        CheckpointError: a source file became shorter, or a value of a checked tensor is not finite.
        OSError: for example, the disk is full.
    """
    with named(path), path.open("wb") as file:
        file.write(_header(tensors, metadata))
        for key in _ordered(tensors):
            _copy(key, tensors[key], file)


def _ordered(tensors: Mapping[str, Copied]) -> list[str]:
    return sorted(tensors, key=lambda key: (_ORDER[tensors[key].written.dtype], key))


def _header(tensors: Mapping[str, Copied], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    start = 0
    for key in _ordered(tensors):
        written = tensors[key].written
        end = start + written.nbytes
        entries[key] = {"dtype": written.dtype, "shape": list(written.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _copy(key: str, tensor: Copied, target: Any) -> None:
    if tensor.divisor == float("inf"):
        left, zeros = tensor.written.nbytes, memoryview(bytes(min(tensor.written.nbytes, COPIED_BYTES)))
        while left:
            left -= target.write(zeros[:left])
        return
    for part in stored_parts(tensor.folder, tensor.stored):
        target.write(_converted(key, tensor, part))


def _converted(key: str, tensor: Copied, part: memoryview) -> memoryview:
    """Bytes of a piece of the new tensor; `part` may be changed."""
    stored = tensor.stored
    if stored.dtype not in DTYPES or tensor == Copied(tensor.folder, stored):
        return part
    values = torch.frombuffer(part, dtype=DTYPES[stored.dtype])
    if tensor.checked and not all_finite(values):
        raise not_finite(tensor.folder / stored.file, key)
    target = DTYPES[tensor.written.dtype]
    if tensor.divisor != 1:
        values = values.to(torch.promote_types(values.dtype, target)).div_(tensor.divisor)
    return values.to(target).view(torch.uint8).numpy().data


def stored_parts(folder: Path, stored: Stored) -> Iterator[memoryview]:
    """The bytes of a tensor, `COPIED_BYTES` at a time, in memory that the next piece overwrites.

    Raises:
        CheckpointError: the file became shorter.
    """
    path, left = folder / stored.file, stored.nbytes
    buffer = bytearray(min(left, COPIED_BYTES))
    with named(path), path.open("rb") as source:
        source.seek(stored.start)
        while left:
            part = memoryview(buffer)[:left]
            if source.readinto(part) != len(part):
                raise CheckpointError(f"{path}: became shorter while it was read")
            yield part
            left -= len(part)


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass without a mask."""
    if not values.numel():
        return True
    low, high = values.aminmax()
    return bool(low.isfinite() & high.isfinite())


def not_finite(path: Path, key: str) -> CheckpointError:
    """Error for a tensor with a value that is NaN or infinite."""
    return CheckpointError(
        f"{path}: {key} has a value that is not finite; the file is damaged or its training has diverged"
    )
