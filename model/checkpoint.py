"""Checkpoints in the published layout: safetensors and `config.json`, read strictly and never executed.

Names: a shard is one safetensors file; the index says which shard holds which tensor.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import read_bounded, write_aside
from model.layout import published_tensors
from model.transformer import LongcatFlash

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
MAX_CONFIG_BYTES, MAX_INDEX_BYTES = 1 << 20, 64 << 20
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
READABLE_DTYPES = ("F64", "F32", "BF16", "F16")


def save_pretrained(model: LongcatFlash, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write `config.json` and the weights into `folder`, in the dtype that they have.

    More than `max_shard_bytes` of weights become several shards with an index. The same model gives the same bytes.
    Every file is written aside and renamed; `config.json` comes last, so an interrupted save is no readable checkpoint.

    Raises:
        CheckpointError: `folder` holds weights of another layout, which would be taken for part of this checkpoint.
    """
    shards = _plan_shards(dict(published_tensors(model)), max_shard_bytes)
    names = [WEIGHTS_FILE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    written = {*names, INDEX_FILE} if len(shards) > 1 else {WEIGHTS_FILE}
    folder.mkdir(parents=True, exist_ok=True)
    stale = sorted(path.name for path in _weight_files(folder) if path.name not in written)
    if stale:
        raise CheckpointError(f"{folder}: already holds the weights {stale[0]}; save into an empty folder")
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    for name, shard in zip(names, shards, strict=True):
        # Experts are views into one stack, and the format wants tensors that own their memory.
        owned = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in shard.items()}
        with write_aside(folder / name) as temporary:
            save_file(owned, temporary, metadata={"format": "pt"})
    if len(shards) > 1:
        _write_json(folder / INDEX_FILE, _index(names, shards))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    _write_json(folder / CONFIG_FILE, model.config.to_dict() | {"torch_dtype": dtype})


def load_config(folder: Path) -> ModelConfig:
    """The configuration of a checkpoint folder.

    Raises:
        CheckpointError: there is no readable `config.json`.
        ModelConfigError: it is not a LongCat-Flash configuration; the message names the key.
    """
    return ModelConfig.from_dict(_read_json(folder / CONFIG_FILE, MAX_CONFIG_BYTES), source=str(folder / CONFIG_FILE))


def load_pretrained(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> LongcatFlash:
    """Read a checkpoint folder into a new model, converted to `dtype`; routers stay float32 or better.

    The weights are memory-mapped and copied one tensor at a time. Nothing of the folder is executed.

    Raises:
        CheckpointError: a missing, unexpected or misshapen tensor (named), a damaged file, weights of a dtype that is
            not a plain float, or weights that exist in a pickled format only.
        ModelConfigError: `config.json` is not a LongCat-Flash configuration.
    """
    config = load_config(folder)
    with torch.device("meta"):
        model = LongcatFlash(config).to(dtype)
    for router in model.routers():
        router.to(torch.promote_types(dtype, torch.float32))
    model.to_empty(device=device)
    expected = dict(published_tensors(model))
    with ExitStack() as stack:
        opened = {name: stack.enter_context(_open_shard(folder / name)) for name in _shard_names(folder)}
        location = {key: name for name, shard in opened.items() for key in shard.keys()}  # noqa: SIM118
        _check_keys(folder, expected, location, _read_index(folder))
        for key, tensor in expected.items():
            shard = opened[location[key]]
            _check_tensor(folder / location[key], key, shard.get_slice(key), tensor)
            tensor.copy_(shard.get_tensor(key))
    return model


def _plan_shards(tensors: Mapping[str, torch.Tensor], max_bytes: int) -> list[dict[str, torch.Tensor]]:
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for key in sorted(tensors):
        size = tensors[key].nbytes
        if shards[-1] and filled + size > max_bytes:
            shards.append({})
            filled = 0
        shards[-1][key] = tensors[key]
        filled += size
    return shards


def _shard_name(index: int, total: int) -> str:
    return f"model-{index + 1:05d}-of-{total:05d}.safetensors"


def _index(names: list[str], shards: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _weight_files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.safetensors"))
    yield from sorted(folder.glob("*.safetensors.index.json"))


def _read_index(folder: Path) -> dict[str, str] | None:
    """The map from key to shard, or None for a checkpoint of one file."""
    path = folder / INDEX_FILE
    if not path.exists():
        return None
    index = _read_json(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{path}: has no weight_map")
    for key, name in index.items():
        # A name from a file must not lead out of the folder.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{path}: {key} is said to be in {name!r}, which is no safetensors file of this folder"
            )
    return index


def _shard_names(folder: Path) -> list[str]:
    index = _read_index(folder)
    single = (folder / WEIGHTS_FILE).exists()
    if index is not None and single and WEIGHTS_FILE not in index.values():
        raise CheckpointError(f"{folder}: holds both {WEIGHTS_FILE} and {INDEX_FILE}; remove the one that is stale")
    if index is not None:
        return sorted(set(index.values()))
    if single:
        return [WEIGHTS_FILE]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise CheckpointError(
            f"{folder}: {pickled[0]} is a pickled format, which can run code when it is read; convert it to safetensors"
        )
    raise CheckpointError(f"{folder}: neither {WEIGHTS_FILE} nor {INDEX_FILE} is there")


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the index names this file, but it is not there") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({error})") from None


def _check_keys(
    folder: Path,
    expected: Mapping[str, torch.Tensor],
    location: Mapping[str, str],
    index: Mapping[str, str] | None,
) -> None:
    missing = sorted(expected.keys() - location.keys())
    if missing:
        raise CheckpointError(f"{folder}: the tensor {missing[0]} is missing ({len(missing)} missing in all)")
    unexpected = sorted(location.keys() - expected.keys())
    if unexpected:
        raise CheckpointError(
            f"{folder}: the tensor {unexpected[0]} is unexpected ({len(unexpected)} unexpected in all); "
            f"the model of {CONFIG_FILE} has no such part"
        )
    for key, name in location.items():
        if index is not None and index.get(key) != name:
            raise CheckpointError(f"{folder / name}: holds {key}, which {INDEX_FILE} says is in {index.get(key)}")


def _check_tensor(path: Path, key: str, stored: Any, tensor: torch.Tensor) -> None:
    shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
    if shape != tuple(tensor.shape):
        raise CheckpointError(f"{path}: {key} has the shape {shape}, {CONFIG_FILE} asks for {tuple(tensor.shape)}")
    if dtype not in READABLE_DTYPES:
        raise CheckpointError(f"{path}: {key} is {dtype}; quantised weights are not supported, convert them to BF16")


def _read_json(path: Path, limit: int) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: not there; a checkpoint folder has {CONFIG_FILE} and safetensors files")
    try:
        value = json.loads(read_bounded(path, limit))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is no JSON object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with write_aside(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
