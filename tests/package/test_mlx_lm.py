"""Exports in mlx-lm on a CPU, installed beside the dependencies of this environment.

Installs from a package index: `make test-package`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.model.checkpoint import save_pretrained
from longcat.model.rope_scaling import RopeScaling
from longcat.pipeline.progress import SilentProgress
from longcat.stages.convert import export_checkpoint
from tests.package.other_program import deviation, run_beside, take_logits, variant

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OTHER = ("mlx==0.32.4", "mlx-cpu==0.32.4", "mlx-lm")
NGRAM = {"ngram_vocab_size_ratio": 2.0, "emb_neighbor_num": 3, "emb_split_num": 2}
YARN = RopeScaling(factor=4.0, original_max_position_embeddings=16)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "unscaled": {"mla_scale_q_lora": False, "mla_scale_kv_lora": False},
    "mtp": {"num_nextn_predict_layers": 1, "mtp_share_embeddings": True, "tie_word_embeddings": True},
    "yarn": {"rope_scaling": YARN, "rope_theta": 100.0},
    "n-grams": {**NGRAM, "hidden_size": 48},
    "n-grams, yarn, tied": {**NGRAM, "hidden_size": 48, "rope_scaling": YARN, "tie_word_embeddings": True},
}
SCRIPT = """
import json, sys
from pathlib import Path
import mlx.core as mx
from mlx_lm.utils import load_model
folders, ids = json.loads(sys.argv[1])
for folder in folders:
    model, _ = load_model(Path(folder), strict=True)
    mx.save_safetensors(folder + "/theirs.safetensors", {"logits": model(mx.array(ids))})
"""


@torch.no_grad()
def test_mlx_lm_gives_our_logits_for_every_exported_variant(tmp_path: Path) -> None:
    models, folders = {}, []
    for name, changes in VARIANTS.items():
        model = models[name] = variant(changes)
        for key, parameter in model.named_parameters():
            if "_a_proj" in key:  # its norms of latents have another epsilon
                parameter[: model.config.kv_lora_rank if ".kv_a" in key else None].mul_(100)
        save_pretrained(model, tmp_path / name)
        export_checkpoint(tmp_path / name, tmp_path / f"{name}-out", progress=SilentProgress())
        folders.append(str(tmp_path / f"{name}-out"))
    ids = (torch.arange(34).view(2, 17) * 7 % 300 + 4).tolist()
    run_beside(tmp_path / "venv", OTHER, SCRIPT, [folders, ids])
    for name, folder in zip(models, folders, strict=True):
        assert deviation(take_logits(Path(folder)), models[name](torch.tensor(ids)).logits) < 2e-5, name
