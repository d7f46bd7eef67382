"""A model larger than the memory that the process may take is grown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from longcat.model.checkpoint import load_config
from longcat.model.growth.layers import Growth
from longcat.model.layout import published_tensors
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.store import Store

HEADROOM = 24 << 20  # a buffer of 8 MiB, and what the store and the allocator need
# Imports and the stage's plan come first, since torch alone maps hundreds of megabytes.
SCRIPT = """
import resource, sys
from pathlib import Path
import longcat.model.growth.files, longcat.stages, longcat.stages.formats.checkpoint
from longcat.pipeline.engine.local import LocalEngine
from longcat.pipeline.runner import Session, execute, plan_named
from longcat.pipeline.store import Store

session = Session(Store(Path(sys.argv[1])), engine=LocalEngine(workers=1))
plan = plan_named(session, "grow", {"moments": "rescale"}, {"checkpoint": sys.argv[2]})
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(execute(plan, session).artifact.id)
"""


def numbered(place: int, like: torch.Tensor) -> torch.Tensor:
    """Values of tensor number `place`: constant but for the ends."""
    tensor = torch.full(like.shape, float(place))
    tensor.view(-1)[0], tensor.view(-1)[-1] = place + 0.25, place + 0.5
    return tensor


def checkpoint_of(folder: Path) -> None:
    """Weights of 100 MiB and as many bytes of moments, in two layers."""
    sizes = {"hidden_size": 1024, "ffn_hidden_size": 1280, "expert_ffn_hidden_size": 512, "n_routed_experts": 2}
    small = {"num_layers": 2, "num_attention_heads": 2, "zero_expert_num": 1, "moe_topk": 2, "vocab_size": 2048}
    latents = {"q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    fixed = {"routed_scaling_factor": 1.0, "rope_theta": 1e4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps(sizes | small | latents | fixed))
    with torch.device("meta"):
        model = LongcatFlash(load_config(folder))
    weights = {key: numbered(place, tensor) for place, (key, tensor) in enumerate(published_tensors(model))}
    save_file(weights, folder / "model.safetensors")
    (folder / "training").mkdir()
    moments = {f"{key}.exp_avg": numbered(place, t) for place, (key, t) in enumerate(model.named_parameters())}
    save_file(moments, folder / "training/optimizer.safetensors")


@pytest.mark.slow
def test_a_model_of_four_times_the_memory_left_is_grown(
    publish_artifact: Callable[..., Artifact], store: Store
) -> None:
    small = publish_artifact("c0ffee0000000001", "checkpoint", "import", checkpoint_of)
    assert small.file("model.safetensors").stat().st_size > 4 * HEADROOM
    assert small.file("training/optimizer.safetensors").stat().st_size > 4 * HEADROOM
    command = [sys.executable, "-c", SCRIPT, str(store.root), small.id, str(HEADROOM)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    grown = store.resolve(done.stdout.strip())
    growth = Growth.of(2, 2)
    for name, divisor in (("model.safetensors", 1), ("training/optimizer.safetensors", 2)):
        with safe_open(small.file(name), "pt") as before, safe_open(grown.file(name), "pt") as after:
            names = growth.names(before.keys())
            assert names.keys() == set(after.keys())
            for target, source in names.items():
                expected: Any = before.get_tensor(source)
                expected = expected / divisor if "layers" in source else expected
                assert torch.equal(after.get_tensor(target), expected)
