"""Planning a conversion takes memory by the number of tensors, and none by their sizes: files of 3.3 TB, all holes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest

from longcat.model.config import ModelConfig
from longcat.model.published_keys import spelled
from longcat.model.tensor_check import expected_shapes

# LongCat-2.0, in the form of its files.
SECOND: dict[str, Any] = {
    "architectures": ["LongcatCausalLM"], "expert_ffn_hidden_size": 2048, "ffn_hidden_size": 12288,
    "hidden_size": 8192, "index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048, "kv_lora_rank": 512,
    "max_position_embeddings": 262144, "moe_topk": 12, "n_routed_experts": 768, "num_attention_heads": 64,
    "num_layers": 38, "oe_neighbor_num": 5, "oe_split_num": 4, "oe_vocab_size_ratio": 100.567, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
    "routed_scaling_factor": 9, "v_head_dim": 128, "vocab_size": 163840, "zero_expert_num": 128,
}  # fmt: skip
SMALL = SECOND | {
    "expert_ffn_hidden_size": 8, "ffn_hidden_size": 8, "hidden_size": 64, "kv_lora_rank": 8, "q_lora_rank": 8,
    "vocab_size": 640,
}  # fmt: skip
TENSORS_OF_A_SHARD = 600

PLAN = """
import re, sys
from pathlib import Path
from longcat.model.checkpoint import Conversion

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

import longcat.model.transformer
before = peak()
conversion = Conversion(sys.argv[1])
print(peak() - before, conversion.size)
"""


def write_holes(folder: Path, published: dict[str, Any]) -> int:
    """Sharded files with true headers and no values; returns the number of tensors."""
    folder.mkdir()
    config = ModelConfig.from_dict(published)
    shapes = {spelled(key, config): shape for key, shape in expected_shapes(config).items()}
    places = {}
    every = list(shapes)
    for number in range(0, len(every), TENSORS_OF_A_SHARD):
        keys = every[number : number + TENSORS_OF_A_SHARD]
        name = f"model-{number:05d}.safetensors"
        header = dict(_entries({key: shapes[key] for key in keys}))
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + max(entry["data_offsets"][1] for entry in header.values()))
        places |= dict.fromkeys(keys, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps(published))
    return len(places)


def _entries(shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, dict[str, Any]]]:
    start = 0
    for key, shape in shapes.items():
        end = start + 2 * prod(shape)
        yield key, {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        start = end


def planned(folder: Path) -> tuple[int, int]:
    """Growth of the memory of a process that plans, and the bytes that it would write."""
    ran = subprocess.run([sys.executable, "-c", PLAN, str(folder)], check=True, capture_output=True, text=True)
    grown, size = map(int, ran.stdout.split())
    return grown, size


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc, and files have holes")
@pytest.mark.parametrize("layers", [2, pytest.param(38, marks=pytest.mark.slow)])
def test_the_plan_takes_no_memory_by_size(layers: int, tmp_path: Path) -> None:
    tensors = write_holes(tmp_path / "large", SECOND | {"num_layers": layers})
    assert write_holes(tmp_path / "small", SMALL | {"num_layers": layers}) == tensors
    large, size = planned(tmp_path / "large")
    small, least = planned(tmp_path / "small")
    assert size > 500 * least
    if layers == 38:
        assert size == 2 * 1_638_616_807_424
    assert large < 1.2 * small + (8 << 20)
    assert large < 8192 * tensors + (64 << 20)
