"""Growth of a checkpoint on disk: values are copied from file to file, a few megabytes at a time, without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from longcat.model.checkpoint import MAX_SHARD_BYTES, checked_files
from longcat.model.errors import CheckpointError
from longcat.model.files import write_aside
from longcat.model.growth.depth import DepthScale
from longcat.model.growth.layers import Growth, Moments
from longcat.model.layout import is_router_bias
from longcat.model.published_keys import EMBEDDING
from longcat.model.safetensors_files import DTYPES, Copied, copied_size, read_header, write_copies
from longcat.model.weights import CONFIG_FILE, PT_METADATA, Advance, write_json, write_shards


class GrownWeights:
    """Weights of the model grown from the checkpoint in `source`, in its layout and with its bits.

    `config` is its architecture, `size` the bytes of its weights. With `zero_router_biases` these are zero; with
    `rescale_depth` matrices whose initial values depend on the depth are multiplied, see `depth` (a `DepthScale`).

    Raises:
        CheckpointError, ModelConfigError: as `load_pretrained`.
        ModelError: as `Growth.config`.
    """

    def __init__(
        self, source: Path, growth: Growth, *, zero_router_biases: bool = False, rescale_depth: bool = False
    ) -> None:
        small, files = checked_files(source)
        self.config = growth.config(small)
        self.depth = DepthScale(small, self.config) if rescale_depth else None
        self._tensors = {}
        for key, name in growth.names(files.tensors).items():
            divisor = math.inf if zero_router_biases and is_router_bias(key) else _divisor(self.depth, name)
            self._tensors[key] = Copied(source, files.tensors[name], divisor)
        self._dtype = str(files.dtype_of(EMBEDDING)).removeprefix("torch.")

    @property
    def size(self) -> int:
        return sum(tensor.stored.nbytes for tensor in self._tensors.values())

    def write(self, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES, advance: Advance | None = None) -> None:
        """Write the checkpoint into `folder` like `save_pretrained`; shards of an interrupted call are kept."""

        def write(path: Path, keys: Sequence[str]) -> None:
            write_copies(path, {key: self._tensors[key] for key in keys}, PT_METADATA)

        def done(path: Path, keys: Sequence[str]) -> bool:
            return _has_size(path, copied_size({key: self._tensors[key] for key in keys}, PT_METADATA))

        folder.mkdir(parents=True, exist_ok=True)
        sizes = {key: tensor.stored.nbytes for key, tensor in self._tensors.items()}
        write_shards(folder, sizes, write, max_shard_bytes, advance, done)
        write_json(folder / CONFIG_FILE, self.config.to_dict() | {"torch_dtype": self._dtype})


class GrownTensors:
    """Tensors named after parameters, such as optimizer moments, from the file `source` for the grown model.

    `depth`: rescale what depends on the depth.

    Raises:
        CheckpointError: the file is damaged, or a moment to rescale is not a plain float.
        ModelError: a name belongs to a layer that the small model does not have.
    """

    def __init__(
        self, source: Path, growth: Growth, moments: Moments = "copy", depth: DepthScale | None = None
    ) -> None:
        stored = read_header(source)
        self._tensors: dict[str, Copied] = {}
        for key, name in growth.names(stored).items():
            divisor = growth.divisor(name, moments) * _divisor(depth, name)
            copied = Copied(source.parent, stored[name], divisor)
            if copied.divisor != 1 and stored[name].dtype not in DTYPES:
                raise CheckpointError(f"{source}: {name} is {stored[name].dtype}, not a float")
            self._tensors[key] = copied

    @property
    def size(self) -> int:
        return sum(tensor.stored.nbytes for tensor in self._tensors.values())

    def write(self, path: Path) -> None:
        """Write the file, unless an interrupted call has finished it."""
        if not _has_size(path, copied_size(self._tensors)):
            with write_aside(path) as temporary:
                write_copies(temporary, self._tensors)


def _divisor(depth: DepthScale | None, name: str) -> float:
    return 1.0 if depth is None else depth.divisor(name)


def _has_size(path: Path, size: int) -> bool:
    # A file gets its name only when complete, so that its size tells it from one of other tensors.
    return path.is_file() and path.stat().st_size == size
