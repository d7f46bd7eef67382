"""Opening a checkpoint folder: its tensors are compared with its `config.json` before any value is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch

from longcat.model.bounds import least_tensors, shown
from longcat.model.config import ModelConfig
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.layout import NGRAM_TABLES, Layout, idle_tensors, ngram_parts, published_tensors
from longcat.model.published_config import MODEL_TYPE, NGRAM_TYPE
from longcat.model.published_keys import MTP_EMBEDDING, copies, indexer_shapes, is_derived, mtp_table_shapes
from longcat.model.quantized import Method, QuantizedFiles, method_of
from longcat.model.safetensors_files import Stored, stored_parts
from longcat.model.transformer import LongcatFlash
from longcat.model.weights import CONFIG_FILE, MAX_CONFIG_BYTES, WeightFiles, read_json

Quantized = Literal["refused", "fp8", "read"]
FAR_MORE, FEW = 4, 1000


def read_config(folder: Path, quantized: Quantized) -> tuple[ModelConfig, Method | None]:
    """Configuration and kind of weights of a folder; raises as `checkpoint.load_config`."""
    path = folder / CONFIG_FILE
    published = read_json(path, MAX_CONFIG_BYTES)
    kind = published.get("model_type")
    if kind not in (None, MODEL_TYPE, NGRAM_TYPE):
        raise ModelConfigError(f"{path}: model_type = {shown(kind)} is another architecture, expected {MODEL_TYPE!r}")
    method = method_of(published, str(path))
    if method is not None and (quantized == "refused" or (quantized == "fp8" and method != "fp8")):
        raise CheckpointError(
            f"{path}: quantization_config says that the weights are {method}; quantised weights are for inference "
            "(`longcat generate`, `chat`, `serve`), take the checkpoint that they were made from"
        )
    published.pop("quantization_config", None)
    return ModelConfig.from_dict(published, source=str(path)), method


def open_checkpoint(
    folder: Path, quantized: Quantized = "refused", *, to_run: bool = True
) -> tuple[ModelConfig, WeightFiles]:
    """Configuration and weights; the published `config.json` does not say that there is multi-token prediction.

    `to_run`: a model that this toolkit cannot run is an error, before any file of weights is read.
    """
    config, method = read_config(folder, quantized)
    if to_run and (reason := config.unrunnable()) is not None:
        raise ModelConfigError(f"{folder / CONFIG_FILE}: {reason}")
    weights = WeightFiles(folder) if method is None else QuantizedFiles(folder)
    for key in [key for key in weights.tensors if is_derived(key)]:
        del weights.tensors[key]
    if not config.num_nextn_predict_layers and any(key.startswith("model.mtp.") for key in weights.tensors):
        shared = MTP_EMBEDDING not in weights.tensors
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


def meta_model(config: ModelConfig) -> LongcatFlash:
    """A model without memory, for the names and shapes of its tensors."""
    with torch.device("meta"):
        return LongcatFlash(config)


def expected_shapes(config: ModelConfig, present: Iterable[str] = ()) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a checkpoint must hold, by published key; `present`: those that it holds."""
    model = meta_model(config.runnable_part)
    kept = {**dict(indexer_shapes(config)), **dict(mtp_table_shapes(config, present))}
    return {key: tuple(tensor.shape) for key, tensor in published_tensors(model)} | kept


def check_tensors(weights: WeightFiles, config: ModelConfig, expected: Mapping[str, tuple[int, ...]]) -> Layout:
    """Compare the stored tensors with `config.json`, and return the layout.

    The layout of transformers 5 has additional unused matrices for experts without a network. Copies of a shared table
    (`published_keys.copies`) may be there; they must equal it.

    Raises:
        CheckpointError: naming the first tensor that is missing, unexpected, of another shape or dtype, or different.
    """
    folder, present = weights.folder, weights.tensors.keys()
    # Checked first, since quantised checkpoints have additional tensors.
    for key in sorted(present & expected.keys()):
        weights.check_dtype(key)
    repeated = {key: source for key, source in copies(config).items() if key in present}
    unknown = present - expected.keys() - repeated.keys()
    with torch.device("meta"):
        idle = {key: tuple(tensor.shape) for key, tensor in idle_tensors(config, torch.float32)} if unknown else {}
    layout: Layout = "transformers5" if unknown & idle.keys() else "published"
    wanted = {**expected, **(idle if layout == "transformers5" else {})}
    missing = sorted(wanted.keys() - present)
    if missing:
        raise CheckpointError(f"{folder}: the tensor {missing[0]} is missing ({len(missing)} missing in all)")
    unexpected = sorted(unknown - wanted.keys())
    if unexpected:
        raise CheckpointError(
            f"{folder}: the tensor {unexpected[0]} is unexpected ({len(unexpected)} unexpected in all); "
            f"the model of {CONFIG_FILE} has no such part"
        )
    weights.check_index()
    _check_ratio(weights, config)
    for key, shape in wanted.items():
        weights.check_dtype(key)
        weights.check_shape(key, shape)
    for key, source in repeated.items():
        weights.check_shape(key, expected[source])
        _check_copy(weights, key, source)
    return layout


def _check_ratio(weights: WeightFiles, config: ModelConfig) -> None:
    """Raise CheckpointError if n-gram tables have other rows than the configuration says."""
    for key, _, rows in ngram_parts(config, NGRAM_TABLES)[0] if config.ngram_tables else ():
        stored = weights.tensors[key]
        if stored.shape and stored.shape[0] != rows:
            raise CheckpointError(
                f"{weights.folder / stored.file}: {key} has {stored.shape[0]} rows, ngram_vocab_size_ratio = "
                f"{config.ngram_vocab_size_ratio:g} of {CONFIG_FILE} asks for {rows}; the tables are of another ratio"
            )


def _check_copy(weights: WeightFiles, key: str, source: str) -> None:
    """Raise CheckpointError if the tensor `key` has other bytes than `source`, whose values the model takes."""
    copy, origin = weights.tensors[key], weights.tensors[source]
    row = None if copy.dtype != origin.dtype else _differing_row(weights.folder, copy, origin)
    if copy.dtype == origin.dtype and row is None:
        return
    how = f"is {copy.dtype} and {source} {origin.dtype}" if row is None else f"differs from {source} in row {row}"
    name = "mtp_share_embeddings" if key == MTP_EMBEDDING else "tie_word_embeddings"
    raise CheckpointError(
        f"{weights.folder / copy.file}: {key} {how}, but {CONFIG_FILE} says {name} = true; set it to false to keep both"
    )


def _differing_row(folder: Path, one: Stored, other: Stored) -> int | None:
    """The first row with other bytes, of two matrices of one shape and dtype."""
    done, row_bytes = 0, one.nbytes // one.shape[0]
    for part, expected in zip(stored_parts(folder, one), stored_parts(folder, other), strict=True):
        if part != expected:
            first = next(place for place, (a, b) in enumerate(zip(part, expected, strict=True)) if a != b)
            return (done + first) // row_bytes
        done += len(part)
    return None
