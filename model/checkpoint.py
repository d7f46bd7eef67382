"""Checkpoints: `config.json` and safetensors in a published layout, read strictly and never executed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from longcat.model.bounds import least_tensors, shown
from longcat.model.config import MODEL_TYPE, ModelConfig
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.layout import Layout, idle_tensors, is_router_key, published_tensors
from longcat.model.quantized import CONFIGS, Method, Plan, QuantizedFiles, method_of
from longcat.model.transformer import LongcatFlash
from longcat.model.weights import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    Advance,
    WeightFiles,
    read_json,
    write_json,
    write_weights,
)

MAX_SHARD_BYTES = 5_000_000_000
Quantized = Literal["refused", "fp8", "read"]
FAR_MORE, FEW = 4, 1000
EMBEDDING = "model.embed_tokens.weight"


def save_pretrained(
    model: LongcatFlash,
    folder: Path | str,
    *,
    layout: Layout = "published",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    advance: Advance | None = None,
) -> None:
    """Write `config.json` and the weights into `folder`, in the dtype that they have.

    More than `max_shard_bytes` of weights become several shards with an index. The same model gives the same bytes.
    Every file is written to a temporary name and renamed; `config.json` comes last, so an interrupted save is not a
    readable checkpoint. The weights are written without a copy. `advance` is called with the bytes of every file
    written.

    Raises:
        CheckpointError: `folder` holds weights of another layout, which would be read as part of this checkpoint.
    """
    tensors = dict(published_tensors(model)) | _idle(model.config, layout, next(model.parameters()).dtype)

    @contextmanager
    def reader() -> Iterator[Callable[[str], torch.Tensor]]:
        yield tensors.__getitem__

    _write(Path(folder), model.config, tensors, reader, max_shard_bytes, advance)


def save_quantized(
    model: LongcatFlash, folder: Path | str, method: Method, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> int:
    """Write a model as `save_pretrained` does, with its matrices quantised (`model.quantized`); returns their number.

    Tensors are quantised one at a time while they are written. Raises as `save_pretrained`, or if a weight is not
    finite.
    """
    plan = Plan(dict(published_tensors(model)), method)

    @contextmanager
    def reader() -> Iterator[Callable[[str], torch.Tensor]]:
        yield plan.read

    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    write_weights(where, plan.planned, reader, max_shard_bytes)
    stated = {"torch_dtype": _name(plan.planned[EMBEDDING].dtype), "quantization_config": dict(CONFIGS[method])}
    write_json(where / CONFIG_FILE, model.config.to_dict() | stated)
    return plan.quantized


def load_config(folder: Path | str, *, quantized: Quantized = "refused") -> ModelConfig:
    """Read the configuration of a checkpoint folder; `quantized` as for `load_pretrained`.

    Raises:
        CheckpointError: there is no readable `config.json`, or it says that the weights are quantised.
        ModelConfigError: it is not a LongCat-Flash configuration; the message names the key.
    """
    return _read_config(Path(folder), quantized)[0]


def quantization_of(folder: Path | str) -> Method | None:
    """How the weights of a checkpoint folder are quantised; None for plain ones.

    Raises:
        CheckpointError: there is no readable `config.json`, or the method is unknown.
    """
    path = Path(folder) / CONFIG_FILE
    return method_of(read_json(path, MAX_CONFIG_BYTES), str(path))


def _read_config(folder: Path, quantized: Quantized) -> tuple[ModelConfig, Method | None]:
    path = folder / CONFIG_FILE
    published = read_json(path, MAX_CONFIG_BYTES)
    kind = published.get("model_type")
    if kind is not None and kind != MODEL_TYPE:
        raise ModelConfigError(f"{path}: model_type = {shown(kind)} is another architecture, expected {MODEL_TYPE!r}")
    method = method_of(published, str(path))
    if method is not None and (quantized == "refused" or (quantized == "fp8" and method != "fp8")):
        raise CheckpointError(
            f"{path}: quantization_config says that the weights are {method}; quantised weights are for inference "
            "(`longcat generate`, `chat`, `serve`), take the checkpoint that they were made from"
        )
    published.pop("quantization_config", None)
    return ModelConfig.from_dict(published, source=str(path)), method


def load_pretrained(
    folder: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    quantized: Quantized = "refused",
) -> LongcatFlash:
    """Read a checkpoint folder of either layout into a new model, converted to `dtype`; routers stay at least float32.

    `quantized`: whether quantised weights (`model.quantized`) are refused or converted to `dtype`; "fp8": only these.

    The weights are memory-mapped and copied piece by piece, unmapping each at once: reading takes the memory of the
    model plus some megabytes. No code in the folder is executed.

    Raises:
        CheckpointError: a missing, unexpected or misshapen tensor (named), a damaged file, weights of a dtype that is
            not a plain float, or weights only in a pickled format.
        ModelConfigError: `config.json` is not a LongCat-Flash configuration.
    """
    config, weights = _open(Path(folder), quantized)
    model = _meta_model(config).to(dtype)
    for router in model.routers():
        router.to(torch.promote_types(dtype, torch.float32))
    _check(weights, config, dict(published_tensors(model)))
    # `to_empty` would do the same but import 35 MB of code.
    shapes = model.state_dict().items()
    model.load_state_dict({key: torch.empty(t.shape, dtype=t.dtype, device=device) for key, t in shapes}, assign=True)
    weights.copy_into(dict(published_tensors(model)))
    return model


@contextmanager
def reading(folder: Path | str) -> Iterator[tuple[ModelConfig, Callable[[str], torch.Tensor]]]:
    """Context with the configuration of a checkpoint folder and a function from published key to stored tensor.

    Tensors are memory maps of the files, open during the context, for reading parts of a model. As strict as
    `load_pretrained`, with the same errors.
    """
    config, weights = checked_files(folder)
    with weights.reader() as read:
        yield config, read


def checked_files(folder: Path | str) -> tuple[ModelConfig, WeightFiles]:
    """Configuration and files of a checkpoint folder, of which only headers are read.

    As strict as `load_pretrained`, with the same errors.
    """
    config, weights = _open(Path(folder))
    _check(weights, config, dict(published_tensors(_meta_model(config))))
    return config, weights


class Conversion:
    """Conversion of a checkpoint on disk to a layout and a dtype (None: as stored; fp8 becomes bfloat16).

    As strict as `load_pretrained`, but no model is built: `write` takes at most twice the memory of one shard. Routers
    stay at least float32. `config` is the architecture, `found` the layout of the checkpoint, `size` the bytes of the
    weights to write, `dtype` the name of their dtype.

    Raises:
        CheckpointError, ModelConfigError: see `load_pretrained`.
    """

    def __init__(self, source: Path | str, *, layout: Layout = "published", dtype: torch.dtype | None = None) -> None:
        self.config, self._weights = _open(Path(source), "fp8")
        expected = dict(published_tensors(_meta_model(self.config)))
        self.found = _check(self._weights, self.config, expected)
        stored = {key: self._weights.dtype_of(key) for key in expected}
        dtypes = {key: _target_dtype(key, stored[key], dtype) for key in expected}
        self._planned = {key: torch.empty(t.shape, dtype=dtypes[key], device="meta") for key, t in expected.items()}
        self._idle = _idle(self.config, layout, dtypes[EMBEDDING])
        self.dtype = _name(dtypes[EMBEDDING])
        self.size = sum(tensor.nbytes for tensor in [*self._planned.values(), *self._idle.values()])

    def write(
        self, folder: Path | str, *, max_shard_bytes: int = MAX_SHARD_BYTES, advance: Advance | None = None
    ) -> None:
        """Write the checkpoint into `folder` like `save_pretrained`, with the same errors."""
        _write(Path(folder), self.config, self._planned | self._idle, self._reader, max_shard_bytes, advance)

    @contextmanager
    def _reader(self) -> Iterator[Callable[[str], torch.Tensor]]:
        with self._weights.reader() as read:
            yield lambda key: self._idle[key] if key in self._idle else read(key).to(self._planned[key].dtype)


def _open(folder: Path, quantized: Quantized = "refused") -> tuple[ModelConfig, WeightFiles]:
    """Configuration and weights; the published `config.json` does not say that there is multi-token prediction."""
    config, method = _read_config(folder, quantized)
    weights = WeightFiles(folder) if method is None else QuantizedFiles(folder)
    if not config.num_nextn_predict_layers and any(key.startswith("model.mtp.") for key in weights.tensors):
        shared = "model.mtp.embed_tokens.weight" not in weights.tensors
        config = config.model_copy(update={"num_nextn_predict_layers": 1, "mtp_share_embeddings": shared})
    _check_count(config, weights)
    return config, weights


def _check_count(config: ModelConfig, weights: WeightFiles) -> None:
    """Checked before tensor names are built, since a file may ask for far more tensors than exist."""
    least, found = least_tensors(config), len(weights.tensors)
    if least > FAR_MORE * found + FEW:
        raise CheckpointError(
            f"{weights.folder}: {CONFIG_FILE} (num_layers = {config.num_layers}, n_routed_experts = "
            f"{config.n_routed_experts}) asks for at least {least} tensors, the files hold {found}"
        )


def _meta_model(config: ModelConfig) -> LongcatFlash:
    with torch.device("meta"):
        return LongcatFlash(config)


def _target_dtype(key: str, stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    if wanted is None:
        return stored
    return torch.promote_types(wanted, torch.float32) if is_router_key(key) else wanted


def _idle(config: ModelConfig, layout: Layout, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return dict(idle_tensors(config, dtype)) if layout == "transformers5" else {}


def _write(
    folder: Path,
    config: ModelConfig,
    planned: dict[str, torch.Tensor],
    reader: Callable[[], Any],
    max_shard_bytes: int,
    advance: Advance | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, planned, reader, max_shard_bytes, advance)
    write_json(folder / CONFIG_FILE, config.to_dict() | {"torch_dtype": _name(planned[EMBEDDING].dtype)})


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check(weights: WeightFiles, config: ModelConfig, expected: dict[str, torch.Tensor]) -> Layout:
    """Compare the stored tensors with `config.json` before anything is read, and return the layout.

    The layout of transformers 5 has additional unused matrices for experts without a network.
    """
    folder, present = weights.folder, weights.tensors.keys()
    # Checked first, since quantised checkpoints have additional tensors.
    for key in sorted(present & expected.keys()):
        weights.check_dtype(key)
    with torch.device("meta"):  # these are the expected shapes, not checked yet
        idle = dict(idle_tensors(config, torch.float32)) if present - expected.keys() else {}
    layout: Layout = "transformers5" if present & idle.keys() else "published"
    expected = expected | (idle if layout == "transformers5" else {})
    missing = sorted(expected.keys() - present)
    if missing:
        raise CheckpointError(f"{folder}: the tensor {missing[0]} is missing ({len(missing)} missing in all)")
    unexpected = sorted(present - expected.keys())
    if unexpected:
        raise CheckpointError(
            f"{folder}: the tensor {unexpected[0]} is unexpected ({len(unexpected)} unexpected in all); "
            f"the model of {CONFIG_FILE} has no such part"
        )
    weights.check_index()
    for key, tensor in expected.items():
        weights.check_dtype(key)
        weights.check_shape(key, tuple(tensor.shape))
    return layout
