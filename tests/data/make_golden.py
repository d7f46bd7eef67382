"""Make `golden/`: a small LongCat-Flash checkpoint with random weights, and the outputs of transformers for it.

    python tests/data/make_golden.py OUTPUT_FOLDER

Uses the installed transformers and no code of longcat. The files in the repository were made by version 4.57.1; version
5 stores the experts differently. README.md has the command and the precision of a second run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SEED = 20251129
SIZES = {
    "vocab_size": 96,
    "hidden_size": 24,
    "num_layers": 2,
    "num_attention_heads": 3,
    "ffn_hidden_size": 36,
    "expert_ffn_hidden_size": 10,
    "n_routed_experts": 8,
    "zero_expert_num": 4,
    "zero_expert_type": "identity",
    "moe_topk": 3,
    "q_lora_rank": 14,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e7,
    "routed_scaling_factor": 6.0,
    "attention_bias": False,
    "attention_method": "MLA",
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
ROWS, LENGTH, PROMPT, GREEDY = 2, 40, 12, 40
# Minimum margin of each greedy token over the second best, so that rounding cannot change the choice.
LEAST_LEAD = 1e-3


@torch.no_grad()
def build(generator: torch.Generator) -> torch.nn.Module:
    """Model of transformers with weights large enough that every part affects the logits."""
    config = transformers.LongcatFlashConfig(**SIZES)
    config._attn_implementation = "eager"
    config.head_dim = SIZES["qk_rope_head_dim"]  # 4.57 uses this width for the angles; its default is 64
    model = transformers.LongcatFlashForCausalLM(config).float().eval()
    for name, tensor in sorted(model.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("e_score_correction_bias"):
            tensor.copy_(0.05 * noise)
        elif tensor.dim() == 1:
            tensor.copy_(1 + 0.2 * noise)
        else:
            tensor.copy_(noise * tensor.shape[-1] ** -0.5)
    return model


@torch.no_grad()
def expected(model: torch.nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Logits of two rows, and a greedy continuation without a cache."""
    input_ids = torch.randint(4, SIZES["vocab_size"], (ROWS, LENGTH), generator=generator)
    prompt = tokens = input_ids[:1, :PROMPT].clone()
    while tokens.shape[1] < GREEDY:
        best = model(tokens, use_cache=False).logits[:, -1].topk(2)
        lead = float(best.values[0, 0] - best.values[0, 1])
        if lead < LEAST_LEAD:
            raise SystemExit(f"the best token leads by {lead:.1e} only; choose another SEED")
        tokens = torch.cat((tokens, best.indices[:, :1]), dim=1)
    logits = model(input_ids, use_cache=False).logits.float()
    return {"input_ids": input_ids, "logits": logits, "prompt": prompt, "greedy": tokens}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    model = build(generator)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = {"architectures": ["LongcatFlashForCausalLM"], "model_type": "longcat_flash", **SIZES}
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_file(expected(model, generator), folder / "expected.safetensors")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, seed {SEED}: {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
