"""Safetensors files of a folder: tensor index, memory-mapped reading, and writing without a second copy.

Names: a shard is one safetensors file; the index says which shard holds which tensor; a key is a tensor's name on disk.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from longcat.model.bounds import MAX_MATRICES, shown
from longcat.model.errors import CheckpointError
from longcat.model.files import default_mode, fault_of, parse_json, read_bounded, write_aside
from longcat.model.published_keys import canonical
from longcat.model.safetensors_files import DTYPES, Stored, all_finite, check_regular, not_finite, read_header

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_CONFIG_BYTES, MAX_INDEX_BYTES = 1 << 20, 64 << 20
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SHARD_NAME = re.compile(r"[^/\\\x00-\x1f]{1,200}\.safetensors")
# Twice the limit of a model, since a layout may have additional tensors.
MAX_TENSORS = 2 * MAX_MATRICES
# Pages of a mapped file count as process memory until unmapped, which is done after this many bytes.
MAPPED_BYTES = 32 << 20
PT_METADATA = {"format": "pt"}

Advance = Callable[[int], None]


class WeightFiles:
    """Weights of a checkpoint folder. `tensors` lists the tensors, in one spelling; only headers are read.

    Raises:
        CheckpointError: a file is missing or damaged, the index does not match the files, or there are only pickled
            weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = _read_index(folder)
        self.tensors: dict[str, Stored] = {}
        self._names: dict[str, str] = {}  # of tensors that the file spells otherwise
        for file in _shard_files(folder, self.index):
            for key, stored in sorted(read_header(folder / file).items()):
                self._add(key, stored)
        for key, file in (self.index or {}).items():
            if key not in self.tensors:
                raise CheckpointError(f"{folder / INDEX_FILE}: says that {shown(key)} is in {file}, which lacks it")

    def _add(self, name: str, stored: Stored) -> None:
        key = canonical(name)
        if key != name:
            self._names[key] = name
        known, path = self.tensors.get(key), self.folder / stored.file
        if known is not None:
            raise CheckpointError(f"{path}: holds {shown(key)}, which is also in {known.file}")
        if len(self.tensors) >= MAX_TENSORS:
            raise CheckpointError(f"{path}: more than {MAX_TENSORS} tensors")
        self.tensors[key] = stored

    def check_index(self) -> None:
        """Raise CheckpointError if a shard holds a tensor that the index assigns to another file."""
        for key, stored in self.tensors.items() if self.index is not None else ():
            if self.index and self.index.get(key) != stored.file:
                told = f"{INDEX_FILE} says is in {self.index.get(key)}"
                raise CheckpointError(f"{self.folder / stored.file}: holds {key}, which {told}")

    def check_dtype(self, key: str) -> None:
        """Raise CheckpointError if a tensor is not a plain float."""
        stored = self.tensors[key]
        if stored.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.folder / stored.file}: {key} is {stored.dtype}; quantised weights cannot be read, take the "
                "checkpoint in BF16"
            )

    def dtype_of(self, key: str) -> torch.dtype:
        """Dtype in which a tensor loses nothing, after `check_dtype`."""
        return DTYPES[self.tensors[key].dtype]

    def check_shape(self, key: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError if a tensor's shape differs from `config.json`."""
        stored = self.tensors[key]
        if stored.shape != shape:
            path = self.folder / stored.file
            raise CheckpointError(f"{path}: {key} has the shape {stored.shape}, {CONFIG_FILE} asks for {shape}")

    @torch.no_grad()
    def copy_into(self, targets: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors to their destinations, file by file, with at most `MAPPED_BYTES` of a file in memory.

        Raises:
            CheckpointError: a value is not finite.
        """
        for file in sorted({self.tensors[key].file for key in targets}):
            chosen = {key: targets[key] for key in sorted(targets) if self.tensors[key].file == file}
            for batch in _batches(chosen):
                with open_shard(self.folder / file) as shard:
                    for key, start, stop in batch:
                        rows = shard.get_slice(self._names.get(key, key))[start:stop]
                        if not all_finite(rows):
                            raise not_finite(self.folder / file, key)
                        chosen[key][start:stop].copy_(rows)

    @contextmanager
    def reader(self) -> Iterator[Callable[[str], torch.Tensor]]:
        """Context with a function from key to tensor; tensors are memory maps of the files, open during the context."""
        with ExitStack() as stack:
            opened: dict[str, Any] = {}

            def read(key: str) -> torch.Tensor:
                file = self.tensors[key].file
                if file not in opened:
                    opened[file] = stack.enter_context(open_shard(self.folder / file))
                tensor: torch.Tensor = opened[file].get_tensor(self._names.get(key, key))
                return tensor

            yield read


def _batches(targets: Mapping[str, torch.Tensor]) -> Iterator[list[tuple[str, int, int]]]:
    """(key, first row, row after the last), in lists of about `MAPPED_BYTES`."""
    batch: list[tuple[str, int, int]] = []
    filled = 0
    for key, tensor in targets.items():
        row_bytes = max(1, tensor.nbytes // tensor.shape[0])
        step = max(1, MAPPED_BYTES // row_bytes)
        for start in range(0, tensor.shape[0], step):
            stop = min(start + step, tensor.shape[0])
            batch.append((key, start, stop))
            filled += (stop - start) * row_bytes
            if filled >= MAPPED_BYTES:
                yield batch
                batch, filled = [], 0
    if batch:
        yield batch


def open_shard(path: Path) -> Any:
    """Open one safetensors file as a context.

    Raises:
        CheckpointError: it is missing or damaged.
        OSError: a machine fault, unrelated to the file's content.
    """
    check_regular(path)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except Exception as error:
        if (fault := fault_of(error, path)) is not None:
            raise fault from None
        if isinstance(error, SafetensorError | ValueError | OverflowError):
            raise CheckpointError(f"{path}: damaged or not a safetensors file ({error})") from None
        raise


def write_weights(
    folder: Path,
    planned: Mapping[str, torch.Tensor],
    reader: Callable[[], Any],
    max_shard_bytes: int,
    advance: Advance | None = None,
) -> None:
    """Write files of tensors as `write_shards`, with its errors.

    `planned` gives shapes and dtypes; `reader()` is a context with a function from key to the values, which is opened
    once per shard. The same tensors give the same bytes.
    """

    def write(path: Path, keys: Sequence[str]) -> None:
        with reader() as read:
            write_shard(path, {key: read(key) for key in keys})

    write_shards(folder, {key: tensor.nbytes for key, tensor in planned.items()}, write, max_shard_bytes, advance)


def write_shards(
    folder: Path,
    sizes: Mapping[str, int],
    write: Callable[[Path, Sequence[str]], None],
    max_shard_bytes: int,
    advance: Advance | None = None,
    done: Callable[[Path, Sequence[str]], bool] | None = None,
) -> None:
    """Write one file, or shards of at most `max_shard_bytes` with an index, each under a temporary name and renamed.

    An old `config.json` is removed first, so that partially replaced weights are not a checkpoint. `sizes` are the
    bytes of every tensor; `write(path, keys)` writes a file of these; `done` says that one is already there. `advance`
    is called with the bytes of every shard.

    Raises:
        CheckpointError: `folder` holds weights split differently, which would be read as part of these.
    """
    shards = _plan_shards(sizes, max_shard_bytes)
    names = [WEIGHTS_FILE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    written = {*names, INDEX_FILE} if len(shards) > 1 else {WEIGHTS_FILE}
    stale = sorted(path.name for path in _weight_files(folder) if path.name not in written)
    if stale:
        raise CheckpointError(f"{folder}: already holds the weights {stale[0]}; save into an empty folder")
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    for name, keys in zip(names, shards, strict=True):
        if done is None or not done(folder / name, keys):
            with write_aside(folder / name) as temporary:
                write(temporary, keys)
        if advance is not None:
            advance(sum(sizes[key] for key in keys))
    if len(shards) > 1:
        write_json(folder / INDEX_FILE, _index(names, shards, sizes))


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write one safetensors file directly from tensor memory; tensors may share memory."""
    held = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    specs = {
        key: TensorSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=list(tensor.shape),
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for key, tensor in held.items()
    }
    with default_mode(path):
        serialize_file(specs, path, metadata=PT_METADATA)


def _plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for key in sorted(sizes):
        if shards[-1] and filled + sizes[key] > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += sizes[key]
    return shards


def _shard_name(index: int, total: int) -> str:
    return f"model-{index + 1:05d}-of-{total:05d}.safetensors"


def _index(names: list[str], shards: list[list[str]], sizes: Mapping[str, int]) -> dict[str, Any]:
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    return {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}


def _weight_files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.safetensors"))
    yield from sorted(folder.glob("*.safetensors.index.json"))


def _read_index(folder: Path) -> dict[str, str] | None:
    """Map from key to shard, or None for a single-file checkpoint."""
    path = folder / INDEX_FILE
    if not path.exists():
        return None
    index = read_json(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{path}: has no weight_map")
    for key, name in index.items():
        # A name from a file must not point outside the folder.
        if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
            raise CheckpointError(
                f"{path}: {shown(key)} is assigned to {shown(name)}, which is not a safetensors file of this folder"
            )
    renamed = {canonical(key): name for key, name in index.items()}
    if len(renamed) != len(index):
        raise CheckpointError(f"{path}: holds an n-gram table in both spellings")
    return renamed


def _shard_files(folder: Path, index: Mapping[str, str] | None) -> list[str]:
    single = (folder / WEIGHTS_FILE).exists()
    if index is not None and single and WEIGHTS_FILE not in index.values():
        raise CheckpointError(f"{folder}: holds both {WEIGHTS_FILE} and {INDEX_FILE}; remove the stale one")
    if index is not None:
        return sorted(set(index.values()))
    if single:
        return [WEIGHTS_FILE]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise CheckpointError(
            f"{folder}: {pickled[0]} is a pickled format, which can run code when it is read; convert it to safetensors"
        )
    raise CheckpointError(f"{folder}: neither {WEIGHTS_FILE} nor {INDEX_FILE} exists")


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes.

    Raises:
        CheckpointError: it is missing, larger, or not a JSON object.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; a checkpoint folder has {CONFIG_FILE} and safetensors files")
    try:
        value = parse_json(read_bounded(path, limit))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically write a JSON object."""
    with write_aside(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
