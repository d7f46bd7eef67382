"""Exports read by another program, which is installed in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from tests.package.conftest import clean_environment, new_environment, pip_install


def variant(changes: dict[str, Any]) -> LongcatFlash:
    """A tiny model with other values, whose logits differ enough to tell a wrong part."""
    whole = {**load_preset("tiny").model_dump(), "vocab_size": 320, "max_position_embeddings": 128, **changes}
    model = LongcatFlash(ModelConfig(**{**whole, "initializer_range": 0.2}))
    initialize(model, 3)
    return model


def run_beside(folder: Path, packages: tuple[str, ...], script: str, given: Any) -> str:
    """Output of a script in a new environment with `packages`; it gets `given` as JSON.

    It writes the logits of each exported model as `theirs.safetensors` into the model's folder.
    """
    python = new_environment(folder)
    pip_install(python, "--no-deps", *packages)
    command = [str(python), "-P", "-c", script, json.dumps(given)]
    ran = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def take_logits(folder: Path) -> torch.Tensor:
    """The other program's logits; the file is removed, since it is no part of the export."""
    path = folder / "theirs.safetensors"
    found = load_file(path)["logits"]
    path.unlink()
    return found


def deviation(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    """Relative difference."""
    return (torch.linalg.vector_norm(theirs - ours) / torch.linalg.vector_norm(ours)).item()
