"""Checkpoints that a killed run goes on from: a folder a step, complete or absent, checked by hash when read."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.files import canonical_json, fsync_file, fsync_folder, read_json, sha256_file

STEP_FOLDER = re.compile(r"step-(\d{9})")
STATE_FILE = "state.json"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Saved:
    """A checkpoint found whole: the steps done, its folder and what was stored beside the tensors."""

    step: int
    folder: Path
    state: dict[str, Any]

    def tensors(self, group: str) -> Tensors:
        """The tensors stored as `group`, memory-mapped."""
        from safetensors.torch import load_file

        return load_file(self.folder / f"{group}.safetensors")


class RunCheckpoints:
    """The checkpoints of one run inside its work folder; the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, groups: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
        """Write one checkpoint aside, make it durable, rename it into place, then drop the oldest.

        A kill at any moment leaves the checkpoints there were, or these and the new one.
        """
        from safetensors.torch import save_file

        target = self.folder / f"step-{step:09d}"
        if target.exists():
            return
        aside = self.folder / f"step-{step:09d}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        digests = {}
        for group, tensors in groups.items():
            path = aside / f"{group}.safetensors"
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
            fsync_file(path)
            digests[path.name] = sha256_file(path)
        content = {"step": step, "state": dict(state), "files": digests}
        (aside / STATE_FILE).write_bytes(canonical_json(content | {"sha256": _digest(content)}))
        fsync_file(aside / STATE_FILE)
        fsync_folder(aside)
        aside.rename(target)
        fsync_folder(self.folder)
        for old in list(self._folders())[self.keep :]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self, usable: Callable[[Saved], bool], warn: Callable[[str], None]) -> Saved | None:
        """The newest checkpoint that is whole and `usable`; those that are not are told to `warn` and removed."""
        for leftover in self.folder.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        for folder in self._folders():
            saved = _read(folder)
            if saved is not None and usable(saved):
                return saved
            warn(f"the checkpoint {folder.name} is damaged and left out, going on from the one before")
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def _folders(self) -> Iterator[Path]:
        """Checkpoint folders, newest first."""
        yield from sorted((path for path in self.folder.iterdir() if STEP_FOLDER.fullmatch(path.name)), reverse=True)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _read(folder: Path) -> Saved | None:
    """The checkpoint in `folder`, or None when any byte of it is not what was written."""
    try:
        content = read_json(folder / STATE_FILE)
        if content.pop("sha256") != _digest(content):
            return None
        for name, digest in content["files"].items():
            if sha256_file(folder / name) != digest:
                return None
        return Saved(content["step"], folder, content["state"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def model_tensors(model: nn.Module) -> Tensors:
    """Parameters and buffers by name; a tensor shared by two modules stands once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@torch.no_grad()
def load_model_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy what `model_tensors` took back into the model, in place, so that its memory keeps its alignment.

    Raises:
        KeyError: a tensor of the model is missing.
    """
    for name, tensor in model_tensors(model).items():
        tensor.copy_(tensors[name])
