"""Digests of model computations: initial weights, logits, losses, gradients and contents of caches.

Runs on this tree and on earlier ones, so it must not use names that moved: things with two names are looked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash

PRESETS = ("tiny", "smoke", "demo", "lc-100m")
SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "published": {},
    "mtp": {"num_nextn_predict_layers": 1},
    "mtp, shared table": {"num_nextn_predict_layers": 1, "mtp_share_embeddings": True},
    "interleaved": {"moe_layout": "interleaved"},
    "gating residual": {"gating_residual": True},
    "null experts, gating residual": {"zero_expert_type": "null", "gating_residual": True},
    "zero experts": {"zero_expert_type": "zero"},
    "constant experts": {"zero_expert_type": "constant"},
    "three kinds": {"zero_expert_types": {"zero": 1, "constant": 1, "identity": 2}},
    "tied": {"tie_word_embeddings": True},
    "unscaled latents": {"mla_scale_q_lora": False, "mla_scale_kv_lora": False},
    "interleaved, mtp": {"moe_layout": "interleaved", "num_nextn_predict_layers": 1},
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
BATCH, TOKENS = 2, 48


def digest(tensor: torch.Tensor) -> str:
    """sha256 over dtype, shape and bits, first 16 hex digits."""
    content = tensor.detach().contiguous().cpu()
    found = hashlib.sha256(f"{content.dtype}{tuple(content.shape)}".encode())
    found.update(content.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def model_digests() -> Iterator[tuple[str, str]]:
    """Yield (name, digest) of every small preset, and of every option of the architecture in three dtypes."""
    for preset in PRESETS:
        yield from _of_config(f"preset {preset}", load_preset(preset), torch.float32)
    for name, switches in SWITCHES.items():
        config = ModelConfig(**{**load_preset("tiny").model_dump(), **switches})
        for dtype in DTYPES:
            yield from _of_config(f"{name} {dtype}", config, dtype)


def _of_config(name: str, config: ModelConfig, dtype: torch.dtype) -> Iterator[tuple[str, str]]:
    model = LongcatFlash(config)
    initialize(model, 3)
    for key, tensor in model.state_dict().items():
        yield f"{name}: initial {key}", digest(tensor)
    model = model.to(dtype)
    generator = torch.Generator().manual_seed(5)
    ids_BT = torch.randint(4, config.vocab_size, (BATCH, TOKENS), generator=generator)
    yield from _forward(name, model, ids_BT)
    yield from _gradients(name, model, ids_BT)
    yield from _decode(name, model, ids_BT)


def _forward(name: str, model: LongcatFlash, ids_BT: torch.Tensor) -> Iterator[tuple[str, str]]:
    with torch.no_grad():
        output = model(ids_BT)
    yield f"{name}: logits", digest(output.logits)
    yield f"{name}: hidden", digest(output.hidden_BTD)
    for index, routing in enumerate(output.routing):
        yield f"{name}: routing {index}", digest(routing.logits_TE)


def _gradients(name: str, model: LongcatFlash, ids_BT: torch.Tensor) -> Iterator[tuple[str, str]]:
    bounds = torch.tensor([0, 7, TOKENS, TOKENS + 20, BATCH * TOKENS])
    targets_BT = ids_BT.roll(-1, dims=1)
    for label, cu_seqlens in (("rows", None), ("documents", bounds)):
        model.zero_grad()
        loss, counted, output = model.loss(ids_BT, targets_BT, cu_seqlens)
        total = loss / counted
        if model.config.num_nextn_predict_layers:
            mtp, mtp_counted = model.mtp_loss(output.hidden_BTD, ids_BT, targets_BT, cu_seqlens)
            yield f"{name}: mtp loss by {label}", digest(mtp)
            total = total + 0.3 * mtp / mtp_counted
        total.backward()
        yield f"{name}: loss by {label}", digest(loss)
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                yield f"{name}: gradient by {label} of {key}", digest(parameter.grad)


def _decode(name: str, model: LongcatFlash, ids_BT: torch.Tensor) -> Iterator[tuple[str, str]]:
    """Digests of a prompt in one pass, single tokens, a rewind, and several tokens in one pass."""
    append, rewind, tensors = decoder(model)
    pieces = [(0, 12), *((at, at + 1) for at in range(12, 18)), (18, 30)]
    with torch.no_grad():
        for begin, end in pieces:
            yield f"{name}: cached logits {begin}", digest(append(ids_BT[:, begin:end]).logits)
        rewind(20)
        yield f"{name}: cached logits again", digest(append(ids_BT[:, 20:24]).logits)
    for index, tensor in enumerate(tensors()):
        yield f"{name}: cache {index}", digest(tensor)


def decoder(model: LongcatFlash) -> tuple[Callable[..., Any], Callable[[int], Any], Callable[[], list[torch.Tensor]]]:
    """Take the next tokens, rewind, and the cached tensors of every slot, latent before rotary key."""
    if hasattr(model, "new_pages"):
        from longcat.model.rows import Rows

        rows, widths = Rows(model, BATCH, TOKENS), (model.config.kv_lora_rank, model.config.qk_rope_head_dim)
        states = (*rows.cache.layer_states, *rows.cache.mtp_states)
        return rows.append, rows.rewind, lambda: [part for state in states for part in in_rows(state, widths)]
    dtype = next(parameter.dtype for key, parameter in model.named_parameters() if "router" not in key)
    cache = model.new_cache(BATCH, TOKENS, dtype)
    return partial(model, cache=cache), cache.rewind, lambda: [x for state in cache.states for x in state.tensors()]


def in_rows(state: Any, widths: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Latents and rotary keys [B, S, width] of rows in consecutive pages."""
    return state.pages_PLW.view(BATCH, TOKENS, -1).split(widths, dim=-1)
