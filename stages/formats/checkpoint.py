"""Reading and writing of checkpoint artifacts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from longcat.model.checkpoint import load_config, load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.files import default_mode, fault_of
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError
from longcat.pipeline.files import atomic_path, atomic_write, is_temporary, pretty_json, sha256_file
from longcat.stages.formats.architecture import preset_architecture
from longcat.stages.formats.special_tokens import TOKENIZER_FILES
from longcat.stages.formats.tokenizer_backend import read_vocabulary
from longcat.stages.formats.training_state import STATE_FILE, TrainingState, read_state

OPTIMIZER_FILE = "training/optimizer.safetensors"
AVERAGE_FILE = "training/average.safetensors"
METRICS_FILE = "metrics.jsonl"
# Rows of embedding and head are padded to a multiple of this, for matrix kernels.


Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Start:
    """Training state besides the weights: optimizer moments and averaged weights, by name; empty: none.

    `balance_coefficient` is the adaptive coefficient of the balance loss; None: not determined yet.
    """

    moments: Tensors
    average: Tensors
    balance_coefficient: float | None = None


def read_start(checkpoint: Artifact) -> Start:
    """Optimizer moments and averaged weights of a checkpoint; empty if it has none.

    Raises:
        IntegrityError: a file is damaged.
    """
    return Start(
        _read_tensors(checkpoint.path / OPTIMIZER_FILE),
        _read_tensors(checkpoint.path / AVERAGE_FILE),
        read_state(checkpoint).balance_coefficient,
    )


def _read_tensors(path: Path) -> Tensors:
    if not path.exists():
        return {}
    try:
        tensors: Tensors = load_file(path)
    except (SafetensorError, OSError, MemoryError, RuntimeError) as error:
        if (fault := fault_of(error, path)) is not None:
            raise fault from None
        if isinstance(error, (MemoryError, RuntimeError)):
            raise
        raise IntegrityError(f"damaged: {error}", where=str(path)) from None
    return tensors


def read_model(checkpoint: Artifact, device: torch.device | str = "cpu") -> LongcatFlash:
    """Load the float32 model of a checkpoint.

    Raises:
        IntegrityError: the weights are incomplete or damaged.
        ConfigError: its config.json does not describe a valid model.
    """
    try:
        return load_pretrained(checkpoint.path, device=device)
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None


def read_model_config(checkpoint: Artifact) -> ModelConfig:
    """Architecture of a checkpoint, which can be run; raises as `read_model`."""
    try:
        config = load_config(checkpoint.path)
        if (reason := config.unrunnable()) is not None:
            raise ModelConfigError(f"{checkpoint.path / 'config.json'}: {reason}")
        return config
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None


def new_architecture(preset: str, changes: Mapping[str, Any], tokens: Artifact) -> ModelConfig:
    """Architecture of a preset for the vocabulary of a tokens artifact; raises as `preset_architecture`."""
    return preset_architecture(preset, changes, vocabulary_size(tokens))


def vocabulary_size(tokens: Artifact) -> int:
    """Largest token id of the tokenizer in a tokens artifact, plus one.

    Raises:
        IntegrityError: its tokenizer.json is missing or invalid.
    """
    path = tokens.file("tokenizer.json")
    try:
        return max(read_vocabulary(path).values(), default=-1) + 1
    except ValueError as error:
        raise IntegrityError(f"no tokenizer: {error}", where=str(path)) from None


def check_same_tokenizer(checkpoint: Artifact, tokens: Artifact) -> None:
    """Check that tokens and checkpoint use the same tokenizer.

    Raises:
        InputError: the tokenizer.json files differ, or the model has fewer rows than the tokenizer has ids.
    """
    hint = "pack the documents with the tokenizer of the checkpoint"
    known = checkpoint.path / "tokenizer.json"
    if known.is_file() and sha256_file(known) != sha256_file(tokens.file("tokenizer.json")):
        raise InputError(
            f"the tokens {tokens.id} were made with another tokenizer than the checkpoint {checkpoint.id}", hint=hint
        )
    needed, rows = vocabulary_size(tokens), read_model_config(checkpoint).vocab_size
    if needed > rows:
        raise InputError(f"the tokens {tokens.id} have {needed} ids, the checkpoint has vocab_size = {rows}", hint=hint)


def copy_tokenizer(source: Artifact, output: Path) -> None:
    """Copy the tokenizer files of `source` into a checkpoint folder."""
    for name in TOKENIZER_FILES:
        if (source.path / name).is_file():
            with atomic_path(output / name) as aside:
                shutil.copyfile(source.path / name, aside)


def clear(output: Path) -> None:
    """Remove partial files of a killed run."""
    for entry in output.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def clear_partial(output: Path) -> None:
    """Remove files that a killed run had not finished, and keep those that it had."""
    for path in output.rglob("*"):
        if is_temporary(path):
            path.unlink()


def write_checkpoint(output: Path, model: LongcatFlash, end: Start, state: TrainingState, tokenizer: Artifact) -> None:
    """Write weights, tokenizer files (from `tokenizer`), training history and training state.

    Optimizer moments and averaged weights are written only if there are any.
    """
    clear(output)
    save_pretrained(model, output)
    copy_tokenizer(tokenizer, output)
    atomic_write(output / STATE_FILE, pretty_json(state.model_dump(mode="json")))
    for name, tensors in {OPTIMIZER_FILE: end.moments, AVERAGE_FILE: end.average}.items():
        if tensors:
            with atomic_path(output / name) as aside, default_mode(aside):
                save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, aside)


def parameter_count(config: ModelConfig) -> int:
    """Parameter count of an architecture."""
    with torch.device("meta"):
        model = LongcatFlash(config)
    return sum(parameter.numel() for parameter in model.parameters())
