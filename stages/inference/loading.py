"""Loading of an engine from a checkpoint folder, with a given device and dtype."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from longcat.model.checkpoint import load_pretrained, quantization_of
from longcat.model.errors import CheckpointError, ModelConfigError, ModelError
from longcat.model.packed.choice import AsAsked, Chooser
from longcat.model.packed.prepare import Report, Weights, prepare
from longcat.model.transformer import LongcatFlash
from longcat.model.weights import CONFIG_FILE
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError, MachineError, UsageError
from longcat.pipeline.files import read_json
from longcat.pipeline.progress import Progress
from longcat.pipeline.verification import check_top_files
from longcat.stages.device import Device, Dtype, choose_device, choose_dtype
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.tokenizer import EngineTokenizer

logger = logging.getLogger(__name__)


def load_model(
    folder: Path, *, device: Device = "auto", dtype: Dtype = "auto", map_tables: bool = False
) -> LongcatFlash:
    """Load the model of a checkpoint folder for inference; quantised weights are converted to `dtype`.

    `map_tables`: n-gram tables stay on disk.

    Raises:
        InputError: the folder does not exist.
        IntegrityError: weights are missing, damaged or in a pickled format.
        ConfigError: config.json does not describe a valid model.
    """
    if not folder.is_dir():
        raise InputError("no such checkpoint folder", where=str(folder), hint="see `longcat artifacts list`")
    place = choose_device(device)
    try:
        with _memory_told(folder):
            number = choose_dtype(dtype, place)
            model = load_pretrained(folder, dtype=number, device=place, quantized="read", map_tables=map_tables)
        return model.eval().requires_grad_(False)
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None


def pack_weights(model: LongcatFlash, folder: Path, weights: Weights, chooser: Chooser | None = None) -> Report | None:
    """Pack the weights of a loaded model in place if it is float32 on a CPU; None if it is not.

    `auto` is the form in which the folder stores its weights, if that is int8, int4 or float16, else float32. See
    `prepare` for `chooser`.

    Raises:
        ConfigError: this machine lacks the form, or a form was asked for a model that cannot be packed.
        IntegrityError: config.json cannot be read.
    """
    parameter = next(model.parameters())
    if weights == "auto" and (parameter.device.type != "cpu" or parameter.dtype != torch.float32):
        return None
    try:
        return prepare(model, stored_weights(folder) if weights == "auto" else weights, chooser=chooser)
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None
    except ModelError as error:
        raise ConfigError(str(error), where="weights") from None


def stored_weights(folder: Path) -> Weights:
    """The form of packed weights that loses nothing against the stored ones, and is the smallest."""
    method = quantization_of(folder)
    if method in ("int8", "int4"):
        return method
    stated = read_json(folder / CONFIG_FILE)
    return "fp16" if isinstance(stated, dict) and stated.get("torch_dtype") == "float16" else "auto"


@contextmanager
def _memory_told(folder: Path) -> Iterator[None]:
    """Convert out-of-memory errors: a RuntimeError from torch, an OSError from mapping the weights."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
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
    options: EngineOptions | None = None,
) -> InferenceEngine:
    """Load model and tokenizer of a checkpoint folder; files of an artifact are verified against its manifest first.

    `threads` sets torch's CPU threads for the whole process, `progress` shows the verification of large files. Without
    `options` the weights are as loaded, so that losses can be computed with the model too.

    Raises:
        InputError: the folder does not exist, or has no tokenizer.
        IntegrityError, ConfigError, UsageError: see `check_top_files`, `load_model` and `choose_device`.
        ConfigError, MachineError: the engine cannot run as `options` say, see `build_core`.
    """
    # Denormals can make a softmax over sharp logits ten times slower.
    torch.set_flush_denormal(True)
    if threads is not None:
        if threads < 1:
            raise UsageError(f"threads must be at least 1 (found {threads})")
        torch.set_num_threads(threads)
    choose_dtype(dtype, choose_device(device))
    check_top_files(folder, progress)
    mapped = options is not None and options.ngram_tables == "disk"
    model = load_model(folder, device=device, dtype=dtype, map_tables=mapped)
    if options is not None and options.weights != "plain":
        # A choice by measurement could give a text other bits in the next process.
        report = pack_weights(model, folder, options.weights, AsAsked() if options.deterministic else None)
        for line in () if report is None else report.lines():
            logger.debug("%s", line)
    engine = InferenceEngine(model, EngineTokenizer.load(folder), stop_token_ids(folder, model), options)
    if options is not None:
        engine.prepare()
    return engine


def stop_token_ids(folder: Path, model: LongcatFlash) -> list[int]:
    """Ids that end generation: from generation_config.json, else from the configuration.

    Raises:
        IntegrityError: generation_config.json cannot be read.
    """
    path = folder / "generation_config.json"
    try:
        stated = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(path)) from None
    if not isinstance(stated, dict):
        raise IntegrityError("is not a JSON object", where=str(path))
    value = stated.get("eos_token_id")
    found = value if isinstance(value, list) else [value]
    ids = [item for item in found if type(item) is int and 0 <= item < model.config.vocab_size]
    return ids or [model.config.eos_token_id, *model.config.further_eos_token_ids]
