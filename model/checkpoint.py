"""Checkpoints: `config.json` and safetensors in a published layout, read strictly and never executed."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longcat.model.config import ModelConfig
from longcat.model.embeddings.mapped import MappedNgramEmbedding, MappedTables
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.layout import NGRAM_TABLES, Layout, idle_tensors, is_router_key, ngram_parts, published_tensors
from longcat.model.published_keys import EMBEDDING, copies, spelled
from longcat.model.quantized import CONFIGS, Method, Plan, QuantizedFiles, method_of
from longcat.model.safetensors_files import DTYPES, Copied, Stored, all_finite, not_finite, write_copies
from longcat.model.tensor_check import (
    Quantized,
    check_tensors,
    expected_shapes,
    meta_model,
    open_checkpoint,
    read_config,
)
from longcat.model.transformer import LongcatFlash
from longcat.model.weights import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    PT_METADATA,
    Advance,
    WeightFiles,
    read_json,
    write_json,
    write_shard,
    write_shards,
    write_weights,
)

MAX_SHARD_BYTES = 5_000_000_000
NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
    written. A shared table is written once for each of its parts, since other programs do not share it.

    Raises:
        CheckpointError: `folder` holds weights of another layout, which would be read as part of this checkpoint.
    """
    tensors = _with_copies(model) | _idle(model.config, layout, next(model.parameters()).dtype)

    @contextmanager
    def reader() -> Iterator[Callable[[str], torch.Tensor]]:
        yield tensors.__getitem__

    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    write_weights(where, tensors, reader, max_shard_bytes, advance)
    write_json(where / CONFIG_FILE, model.config.to_dict() | {"torch_dtype": _name(tensors[EMBEDDING].dtype)})


def _with_copies(model: LongcatFlash) -> dict[str, torch.Tensor]:
    tensors = dict(published_tensors(model))
    return tensors | {key: tensors[source] for key, source in copies(model.config).items()}


def save_quantized(
    model: LongcatFlash, folder: Path | str, method: Method, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> int:
    """Write a model as `save_pretrained` does, with its matrices quantised (`model.quantized`); returns their number.

    Tensors are quantised one at a time while they are written. Raises as `save_pretrained`, or if a weight is not
    finite.
    """
    # Only fp8 is for other programs.
    tensors = _with_copies(model) if method == "fp8" else dict(published_tensors(model))
    plan = Plan(tensors, method)

    @contextmanager
    def reader() -> Iterator[Callable[[str], torch.Tensor]]:
        yield lambda key: plan.read(key, tensors.__getitem__)

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
    return read_config(Path(folder), quantized)[0]


def quantization_of(folder: Path | str) -> Method | None:
    """How the weights of a checkpoint folder are quantised; None for plain ones.

    Raises:
        CheckpointError: there is no readable `config.json`, or the method is unknown.
    """
    path = Path(folder) / CONFIG_FILE
    return method_of(read_json(path, MAX_CONFIG_BYTES), str(path))


def load_pretrained(
    folder: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    quantized: Quantized = "refused",
    map_tables: bool = False,
) -> LongcatFlash:
    """Read a checkpoint folder of either layout into a new model, converted to `dtype`; routers stay at least float32.

    `quantized`: whether quantised weights (`model.quantized`) are refused or converted to `dtype`; "fp8": only these.
    `map_tables`: n-gram tables stay on disk (`model.embeddings.mapped`), for inference.

    The weights are memory-mapped and copied piece by piece, unmapping each at once: reading takes the memory of the
    model plus some megabytes. No code in the folder is executed.

    Raises:
        CheckpointError: a missing, unexpected or misshapen tensor (named), a damaged file, weights of a dtype that is
            not a plain float, a weight that is not finite, or weights only in a pickled format.
        ModelConfigError: `config.json` is not a LongCat-Flash configuration, or has no n-gram tables to map.
    """
    config, weights = open_checkpoint(Path(folder), quantized)
    model = meta_model(config).to(dtype)
    for router in model.routers():
        router.to(torch.promote_types(dtype, torch.float32))
    check_tensors(weights, config, expected_shapes(config, weights.tensors))
    if map_tables:
        model.model.embed_tokens = _mapped_embedding(weights, config).to(dtype)
    # `to_empty` would do the same but import 35 MB of code.
    shapes = model.state_dict().items()
    model.load_state_dict({key: torch.empty(t.shape, dtype=t.dtype, device=device) for key, t in shapes}, assign=True)
    weights.copy_into(dict(published_tensors(model)))
    return model


def _mapped_embedding(weights: WeightFiles, config: ModelConfig) -> MappedNgramEmbedding:
    if config.ngram_tables is None:
        raise ModelConfigError(f"{weights.folder}: the model has no n-gram tables that could stay on disk")
    stored = [weights.tensors[key] for key, _, _ in ngram_parts(config, NGRAM_TABLES)[0]]
    return MappedNgramEmbedding(config, MappedTables(weights.folder, stored))


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
    config, weights = open_checkpoint(Path(folder))
    check_tensors(weights, config, expected_shapes(config, weights.tensors))
    return config, weights


@dataclass(frozen=True)
class Planned:
    """A tensor of a converted checkpoint: the stored tensor of its values, what they are divided by, and its dtype."""

    source: str
    shape: tuple[int, ...]
    divisor: float
    dtype: torch.dtype

    @property
    def like(self) -> torch.Tensor:
        """Without values."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


class Conversion:
    """Conversion of a checkpoint on disk to a layout and a dtype (None: as stored; fp8 becomes bfloat16).

    As strict as `load_pretrained`, but no model is built: `write` copies some megabytes at a time, except for fp8, of
    which one shard is in memory. Routers stay at least float32. `config` is the architecture that is written, `found`
    the layout of the checkpoint, `size` the bytes of the weights to write, `dtype` the name of their dtype.

    `standalone`: the result says nothing that only this toolkit reads. A shared table becomes one table for each part,
    and latents that are not scaled (`mla_scale_q_lora`, `mla_scale_kv_lora`) become scaled ones whose norms are divided
    by the scale; the logits stay the same, up to the rounding of these norms.

    `fp8`: matrices become float8 with scales of blocks, and the rest bfloat16 (`model.quantized`). Then one shard is in
    memory.

    Raises:
        CheckpointError, ModelConfigError: see `load_pretrained`; or `fp8` with another layout, or with `dtype`.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        layout: Layout = "published",
        dtype: torch.dtype | None = None,
        standalone: bool = False,
        fp8: bool = False,
    ) -> None:
        if fp8 and (layout != "published" or dtype is not None):
            raise CheckpointError(
                f"{source}: fp8 weights have the layout published, and what is not fp8 is stored as bfloat16; "
                "leave out the other layout or dtype"
            )
        config, self._weights = open_checkpoint(Path(source), "fp8", to_run=False)
        if layout == "transformers5" and (config.ngram_tables or config.sparse_index or config.q_lora_rank is None):
            raise ModelConfigError(
                f"{source}: transformers has no n-gram embeddings, no sparse attention and no queries without a latent "
                "for this architecture; use the layout published"
            )
        shapes = expected_shapes(config, self._weights.tensors)
        self.found = check_tensors(self._weights, config, shapes)
        divisors = _undone_scales(config) if standalone else {}
        self._planned: dict[str, Planned] = {}
        for key, origin in {**{key: key for key in shapes}, **copies(config)}.items():
            divisor = next((value for suffix, value in divisors.items() if key.endswith(suffix)), 1.0)
            target = _target_dtype(key, self._weights.dtype_of(origin), dtype)
            self._planned[spelled(key, config)] = Planned(origin, shapes[origin], divisor, target)
        written = self._planned[EMBEDDING].dtype
        self._idle = {key: (tuple(t.shape), t.dtype) for key, t in _idle(config, layout, written).items()}
        self.config = _standalone(config) if standalone else config
        self._copied = {**{key: self._copy(plan) for key, plan in self._planned.items()}, **self._zeros()}
        self._sizes = {key: copied.written.nbytes for key, copied in self._copied.items()}
        self._fp8 = Plan({key: plan.like for key, plan in self._planned.items()}, "fp8") if fp8 else None
        if self._fp8 is not None:
            written = self._fp8.planned[EMBEDDING].dtype
            self._sizes = {key: tensor.nbytes for key, tensor in self._fp8.planned.items()}
        self.dtype, self.size = _name(written), sum(self._sizes.values())

    def write(
        self, folder: Path | str, *, max_shard_bytes: int = MAX_SHARD_BYTES, advance: Advance | None = None
    ) -> None:
        """Write the checkpoint into `folder` like `save_pretrained`.

        Raises:
            CheckpointError: as `save_pretrained`, or a weight is not finite.
        """
        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        computed = self._fp8 is not None or isinstance(self._weights, QuantizedFiles)
        write = self._write_shard if computed else self._copy_shard
        write_shards(where, self._sizes, write, max_shard_bytes, advance)
        stated = {} if self._fp8 is None else {"quantization_config": dict(CONFIGS["fp8"])}
        write_json(where / CONFIG_FILE, self.config.to_dict() | {"torch_dtype": self.dtype} | stated)

    def _copy(self, plan: Planned) -> Copied:
        stored = self._weights.tensors[plan.source]
        return Copied(self._weights.folder, stored, plan.divisor, NAMES[plan.dtype], checked=True)

    def _zeros(self) -> dict[str, Copied]:
        stored = {key: Stored("", shape, NAMES[dtype]) for key, (shape, dtype) in self._idle.items()}
        return {key: Copied(self._weights.folder, one, math.inf) for key, one in stored.items()}

    def _copy_shard(self, path: Path, keys: Sequence[str]) -> None:
        write_copies(path, {key: self._copied[key] for key in keys}, PT_METADATA)

    def _write_shard(self, path: Path, keys: Sequence[str]) -> None:
        with self._weights.reader() as read:

            def plain(key: str) -> torch.Tensor:
                return self._value(key, read)

            value = plain if self._fp8 is None else partial(self._fp8.read, plain=plain)
            write_shard(path, {key: value(key) for key in keys})

    def _value(self, key: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        if key in self._idle:
            shape, dtype = self._idle[key]
            return torch.zeros(shape, dtype=dtype)
        plan = self._planned[key]
        values = read(plan.source)
        if not all_finite(values):
            raise not_finite(self._weights.folder / self._weights.tensors[plan.source].file, plan.source)
        return (values if plan.divisor == 1 else values / plan.divisor).to(plan.dtype)


def _undone_scales(config: ModelConfig) -> dict[str, float]:
    """What the norms of latents are divided by, by the end of their keys, if these become scaled ones."""
    scales = {}
    if not config.mla_scale_q_lora and config.q_lora_rank is not None:
        scales[".q_a_layernorm.weight"] = (config.hidden_size / config.q_lora_rank) ** 0.5
    if not config.mla_scale_kv_lora:
        scales[".kv_a_layernorm.weight"] = (config.hidden_size / config.kv_lora_rank) ** 0.5
    return scales


def _standalone(config: ModelConfig) -> ModelConfig:
    changes: dict[str, Any] = {"mla_scale_q_lora": config.q_lora_rank is not None, "mla_scale_kv_lora": True}
    changes |= {"tie_word_embeddings": False, "mtp_share_embeddings": False}
    if config.zero_expert_counts.keys() == {config.zero_expert_type}:
        changes["zero_expert_types"] = None
    return config.model_copy(update=changes)


def _target_dtype(key: str, stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    if wanted is None:
        return stored
    return torch.promote_types(wanted, torch.float32) if is_router_key(key) else wanted


def _idle(config: ModelConfig, layout: Layout, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return dict(idle_tensors(config, dtype)) if layout == "transformers5" else {}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
