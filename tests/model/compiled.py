"""A compiled model gives the logits of the plain one."""

from __future__ import annotations

import pytest
import torch

from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.compilation import compile_blocks


def check_compiled(model: LongcatFlash, ids_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attention module and dense network is compiled; eager backend, since others are not of this project."""
    compiled: list[str] = []

    def compile_traced(module: torch.nn.Module) -> None:
        compiled.append(type(module).__name__)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_traced)
    expected = model(ids_BT).logits
    compile_blocks(model)
    torch.testing.assert_close(model(ids_BT).logits, expected)
    assert len(compiled) == 2 * 2 * model.config.num_layers
