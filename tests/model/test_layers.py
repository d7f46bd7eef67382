"""Layers define whether the backbone ends with a norm, and the scale of their initial values."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch

from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.layers.build import LAYOUTS
from longcat.model.layers.shortcut import ShortcutLayer
from longcat.model.transformer import LongcatFlash


class UnnormedLayer(ShortcutLayer):
    final_norm: ClassVar[bool] = False

    @classmethod
    def initial_scale(cls, config: ModelConfig, name: str) -> float:
        return 0.5 if name.endswith("o_proj.weight") else 1.0


def test_a_layer_without_a_final_norm(config: ModelConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = LongcatFlash(config)
    initialize(plain, 4)
    monkeypatch.setitem(LAYOUTS, "shortcut", UnnormedLayer)
    model = LongcatFlash(config)
    initialize(model, 4)
    expected = dict(plain.named_parameters())
    del expected["model.norm.weight"]
    assert dict(model.named_parameters()).keys() == expected.keys()
    for name, parameter in model.named_parameters():
        factor = 0.5 if name.startswith("model.layers.") and name.endswith("o_proj.weight") else 1.0
        assert torch.equal(parameter, expected[name] * factor)

    ids_BT = torch.arange(20).view(2, 10)
    with torch.no_grad():
        _, _, output = model.loss(ids_BT, ids_BT)
        assert torch.equal(output.hidden_BTD, output.residual_BTD)
        save_pretrained(model, tmp_path)
        assert torch.equal(load_pretrained(tmp_path)(ids_BT).logits, model(ids_BT).logits)
