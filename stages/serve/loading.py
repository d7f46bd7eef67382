"""From a checkpoint folder to an engine, on the device and in the precision asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from longcat.model.checkpoint import load_pretrained
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError, MachineError, UsageError
from longcat.pipeline.files import read_json
from longcat.pipeline.progress import Progress
from longcat.pipeline.verification import check_top_files
from longcat.stages.device import resolve_device, resolve_dtype
from longcat.stages.serve.engine import InferenceEngine
from longcat.stages.serve.tokenizer import EngineTokenizer

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]


def choose_device(name: Device) -> torch.device:
    """`auto` is cuda where there is one.

    Raises:
        UsageError: cuda was asked for and there is none, or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device {name!r}", hint="auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device", hint="use --device cpu, see `longcat doctor`")
    return torch.device(resolve_device(name))


def choose_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """See `resolve_dtype`.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"unknown dtype {name!r}", hint="auto, float32 or bfloat16")
    return torch.bfloat16 if resolve_dtype(name, device.type) == "bfloat16" else torch.float32


def load_model(folder: Path, *, device: Device = "auto", dtype: Dtype = "auto") -> LongcatFlash:
    """The model of a checkpoint folder, for inference.

    Raises:
        InputError: there is no such folder.
        IntegrityError: weights are missing, damaged or in a pickled format.
        ConfigError: config.json describes no model that can be built.
    """
    if not folder.is_dir():
        raise InputError("no such checkpoint folder", where=str(folder), hint="see `longcat artifacts list`")
    place = choose_device(device)
    try:
        with _memory_told(folder):
            model = load_pretrained(folder, dtype=choose_dtype(dtype, place), device=place)
        return model.eval().requires_grad_(False)
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None


@contextmanager
def _memory_told(folder: Path) -> Iterator[None]:
    """torch tells by a RuntimeError that there is no memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        hint = "use --dtype bfloat16, or a machine with more memory"
        raise MachineError("not enough memory for the weights", where=str(folder), hint=hint) from None


def load_engine(
    folder: Path,
    *,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> InferenceEngine:
    """Model and tokenizer of a checkpoint folder; the files of an artifact are compared with its manifest first.

    `threads` sets torch's CPU threads for the whole process, `progress` shows the comparison of large files.

    Raises:
        InputError: there is no such folder, or it has no tokenizer.
        IntegrityError, ConfigError, UsageError: see `check_top_files`, `load_model` and `choose_device`.
    """
    # Denormals can make a softmax over sharp logits ten times slower.
    torch.set_flush_denormal(True)
    if threads is not None:
        if threads < 1:
            raise UsageError(f"threads must be at least 1 (found {threads})")
        torch.set_num_threads(threads)
    choose_dtype(dtype, choose_device(device))
    check_top_files(folder, progress)
    model = load_model(folder, device=device, dtype=dtype)
    return InferenceEngine(model, EngineTokenizer.load(folder), stop_token_ids(folder, model))


def stop_token_ids(folder: Path, model: LongcatFlash) -> list[int]:
    """The ids at which generation ends: those of generation_config.json, else the configuration's.

    Raises:
        IntegrityError: generation_config.json cannot be read.
    """
    path = folder / "generation_config.json"
    try:
        stated = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(path)) from None
    if not isinstance(stated, dict):
        raise IntegrityError("is no JSON object", where=str(path))
    value = stated.get("eos_token_id")
    found = value if isinstance(value, list) else [value]
    ids = [item for item in found if type(item) is int and 0 <= item < model.config.vocab_size]
    return ids or [model.config.eos_token_id]
