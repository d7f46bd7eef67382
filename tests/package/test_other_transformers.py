"""Exports in the other major version of transformers, installed beside the dependencies of this environment.

Installs from a package index: `make test-package`. The installed version is tested in tests/stages/test_convert.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.rope_scaling import RopeScaling
from longcat.pipeline.progress import SilentProgress
from longcat.stages.convert import export_checkpoint
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.formats.tokenizer import load_tokenizer
from tests.package.other_program import deviation, run_beside, take_logits, variant

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OTHER = ("transformers==4.57.1", "tokenizers==0.22.1", "huggingface-hub==0.36.0")
TEXT = "The quick brown fox jumps over the lazy dog. Größe und Maß: naïve café."
CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
YARN = RopeScaling(factor=4.0, original_max_position_embeddings=16)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "unscaled": {"mla_scale_q_lora": False, "mla_scale_kv_lora": False},
    "mtp": {"num_nextn_predict_layers": 1, "mtp_share_embeddings": True, "tie_word_embeddings": True},
    "other-share": {"routed_scaling_factor": 9.0, "n_routed_experts": 7, "zero_expert_num": 1},
    "yarn": {"rope_scaling": YARN, "rope_theta": 100.0},
}

SCRIPT = """
import json, sys
import torch, transformers
from safetensors.torch import save_file
assert transformers.__version__.startswith("4."), transformers.__version__
folders, text, chat = json.loads(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(folders[0], local_files_only=True)
batch = tokenizer([text, "a"], return_tensors="pt", padding=True)
print(json.dumps({
    "inputs": sorted(batch), "side": tokenizer.padding_side, "length": tokenizer.model_max_length,
    "ids": tokenizer(text).input_ids, "chat": tokenizer.apply_chat_template(chat, tokenize=False),
}))
ids = torch.arange(34).view(2, 17) * 7 % 320
for folder in folders:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, attn_implementation="eager")
    assert type(model).__module__ == "transformers.models.longcat_flash.modeling_longcat_flash"
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    assert all(key.startswith("model.mtp.") for key in report["unexpected_keys"]), report
    with torch.no_grad():
        save_file({"logits": model(ids).logits.contiguous()}, folder + "/theirs.safetensors")
        model.generate(**batch, max_new_tokens=2)
        shown = tokenizer.apply_chat_template(chat, return_dict=True, return_tensors="pt", add_generation_prompt=True)
        model.generate(**shown, max_new_tokens=2)
"""


@torch.no_grad()
def test_transformers_4_loads_every_exported_variant_with_its_tokenizer(tmp_path: Path) -> None:
    """The layout `published`; the tokenizer serves the usual calls, which passed token types to the model before."""
    models, folders = {}, []
    for name, changes in VARIANTS.items():
        models[name] = variant(changes)
        save_pretrained(models[name], tmp_path / name)
        write_tokenizer(train([TEXT] * 8, TokenizerConfig(vocab_size=320)), tmp_path / name)
        export_checkpoint(tmp_path / name, tmp_path / f"{name}-out", progress=SilentProgress())
        folders.append(str(tmp_path / f"{name}-out"))
    printed = run_beside(tmp_path / "venv", OTHER, SCRIPT, [folders, TEXT, CHAT])
    said = json.loads(printed.splitlines()[0])
    tokenizer = load_tokenizer(Path(folders[0]))
    assert said == {
        "inputs": ["attention_mask", "input_ids"],
        "side": "left",
        "length": 128,
        "ids": tokenizer.encode(TEXT),
        "chat": tokenizer.render_chat(CHAT, add_generation_prompt=False),
    }
    ids = torch.arange(34).view(2, 17) * 7 % 320
    for name, folder in zip(models, folders, strict=True):
        theirs = take_logits(Path(folder))
        for ours in (models[name](ids).logits, load_pretrained(folder)(ids).logits):
            assert deviation(theirs, ours) < 1e-5, name
