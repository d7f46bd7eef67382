"""Checkpoint artifacts: reading the one that a stage begins with, writing the one that it makes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from longcat.model.checkpoint import load_config, load_pretrained, reading, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError
from longcat.pipeline.faults import raise_fault
from longcat.pipeline.files import atomic_path, atomic_write, pretty_json, read_json, sha256_file
from longcat.stages.data.tokenizer.special import TOKENIZER_FILES
from longcat.stages.tokenizer_backend import read_vocabulary
from longcat.stages.train.architecture import changed_config, preset_architecture
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.state import load_published
from longcat.stages.train.plan import Start, Tensors

OPTIMIZER_FILE = "training/optimizer.safetensors"
AVERAGE_FILE = "training/average.safetensors"
STATE_FILE = "training/state.json"
METRICS_FILE = "metrics.jsonl"
# Rows of embedding and head are a multiple of this, which matrix kernels like.


class DataPosition(BaseModel):
    """Which order of which data was read, and how many samples of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: str
    seed: int
    sequence_length: int
    min_document_tokens: int
    long_document_fraction: float = 0.0
    position: int = 0

    def start_for(self, wanted: DataPosition) -> int:
        """Where reading `wanted` begins: where this stopped if it is the same order of the same data, else at 0."""
        return self.position if self.model_copy(update={"position": wanted.position}) == wanted else 0


class TrainingState(BaseModel):
    """training/state.json: the training that lies behind a checkpoint.

    Counts are totals since initialisation, through growth and every continuation. `config` is the configuration of
    the last stretch, `growth` the stackings in their order. `width_scale` is the s of `stages.train.transfer`, by which
    the learning rates stay apart as long as the model is trained, `balance_coefficient` where the balance loss stands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    samples: int = Field(default=0, ge=0)
    schedule_position: int = Field(default=0, ge=0)
    data: DataPosition | None = None
    config: dict[str, Any] = {}
    growth: list[dict[str, Any]] = []
    width_scale: float = Field(default=1.0, gt=0)
    balance_coefficient: float | None = None


def read_state(checkpoint: Artifact | None) -> TrainingState:
    """The training behind a checkpoint; all zero without one, or for weights that come from elsewhere.

    Raises:
        IntegrityError: training/state.json cannot be read.
    """
    if checkpoint is None or not (path := checkpoint.path / STATE_FILE).exists():
        return TrainingState()
    try:
        return TrainingState.model_validate(read_json(path))
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise IntegrityError(f"{field}: {problem['msg'].lower()}", where=str(path)) from None
    except ValueError as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(path)) from None


def read_start(checkpoint: Artifact) -> Start:
    """Optimizer moments and averaged weights of a checkpoint; empty where it has none.

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
    except (SafetensorError, OSError) as error:
        raise_fault(error, path)
        raise IntegrityError(f"damaged: {error}", where=str(path)) from None
    return tensors


def read_model(checkpoint: Artifact, device: torch.device | str = "cpu") -> LongcatFlash:
    """The float32 model of a checkpoint.

    Raises:
        IntegrityError: the weights are incomplete or damaged.
        ConfigError: its config.json describes no model that can be built.
    """
    try:
        return load_pretrained(checkpoint.path, device=device)
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None


def read_parts(checkpoint: Artifact, held: Distributed) -> None:
    """Give a process its part of the weights of a checkpoint; raises as `read_model`."""
    try:
        with reading(checkpoint.path) as (_, read):
            load_published(held, read)
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None


def read_model_config(checkpoint: Artifact) -> ModelConfig:
    """The architecture of a checkpoint; raises as `read_model`."""
    try:
        return load_config(checkpoint.path)
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None


def rebuilt(model: LongcatFlash, changes: Mapping[str, Any]) -> LongcatFlash:
    """The same weights under a configuration that differs in values that no weight depends on."""
    config = changed_config(model.config, changes, "model")
    with torch.device("meta"):
        other = LongcatFlash(config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other


def new_architecture(preset: str, changes: Mapping[str, Any], tokens: Artifact) -> ModelConfig:
    """A preset's architecture for the vocabulary of a tokens artifact; raises as `preset_architecture`."""
    return preset_architecture(preset, changes, vocabulary_size(tokens))


def vocabulary_size(tokens: Artifact) -> int:
    """One more than the largest token id of the tokenizer in a tokens artifact.

    Raises:
        IntegrityError: its tokenizer.json is missing or no tokenizer.
    """
    path = tokens.file("tokenizer.json")
    try:
        return max(read_vocabulary(path).values(), default=-1) + 1
    except ValueError as error:
        raise IntegrityError(f"no tokenizer: {error}", where=str(path)) from None


def check_same_tokenizer(checkpoint: Artifact, tokens: Artifact) -> None:
    """Refuse tokens whose ids mean something else than those that the model knows.

    Raises:
        InputError: the two tokenizer.json differ, or the model has fewer rows than the tokenizer has ids.
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
    """Copy the tokenizer files that `source` has into a checkpoint folder."""
    for name in TOKENIZER_FILES:
        if (source.path / name).is_file():
            with atomic_path(output / name) as aside:
                shutil.copyfile(source.path / name, aside)


def clear(output: Path) -> None:
    """Remove what a killed run left half written."""
    for entry in output.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def write_checkpoint(output: Path, model: LongcatFlash, end: Start, state: TrainingState, tokenizer: Artifact) -> None:
    """Write weights, tokenizer files (those of `tokenizer`), training state, and what training went on with.

    Of optimizer moments and averaged weights there is no file where there are none.
    """
    clear(output)
    save_pretrained(model, output)
    copy_tokenizer(tokenizer, output)
    atomic_write(output / STATE_FILE, pretty_json(state.model_dump(mode="json")))
    for name, tensors in {OPTIMIZER_FILE: end.moments, AVERAGE_FILE: end.average}.items():
        if tensors:
            with atomic_path(output / name) as aside:
                save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, aside)


def parameter_count(config: ModelConfig) -> int:
    """Parameters of a model of that architecture."""
    with torch.device("meta"):
        model = LongcatFlash(config)
    return sum(parameter.numel() for parameter in model.parameters())
