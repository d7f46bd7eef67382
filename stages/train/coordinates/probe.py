"""The size of what flows through a model, read off by hooks during a forward pass.

Names: B batch, T tokens, D hidden, V vocabulary, H heads, N width without position.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from model.attention.mla import MultiHeadLatentAttention
from model.transformer import LongcatFlash, TrunkOutput

# Attention and output logits of the first tokens of the first text are enough for a mean.
TOKENS = 64


def rms(x: torch.Tensor) -> float:
    """Root mean square of all elements."""
    return x.detach().double().square().mean().sqrt().item()


class Probe:
    """Collects, in one forward pass after another, the root mean square of every quantity by name."""

    def __init__(self, model: LongcatFlash) -> None:
        self.model = model
        self.found: dict[str, float] = {}

    @contextmanager
    def attached(self) -> Iterator[Probe]:
        """Within it every forward pass of the model is measured."""
        trunk = self.model.model
        handles = [trunk.embed_tokens.register_forward_hook(self._keep("embedding"))]
        for index, layer in enumerate(trunk.layers):
            handles.append(layer.register_forward_hook(self._keep(f"layer {index}")))
            for place, attention in enumerate(cast(nn.ModuleList, layer.self_attn)):
                handles.extend(self._watch_attention(attention, f"layer {index} attention {place}"))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def read(self, output: TrunkOutput) -> dict[str, float]:
        """The figures of the last forward pass, whose result was `output`."""
        for index, routing in enumerate(output.routing):
            self.found[f"layer {index} router logits"] = rms(routing.logits_TE)
        hidden_TD = output.hidden_BTD[0, :TOKENS]
        self.found["output logits"] = rms(hidden_TD @ self.model.output_weight.T)
        return dict(self.found)

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.found[name] = rms(output[0] if isinstance(output, tuple) else output)

        return hook

    def _watch_attention(self, attention: nn.Module, name: str) -> Iterator[Any]:
        """The output, and the logits' part that does not depend on the position."""
        if not isinstance(attention, MultiHeadLatentAttention):
            raise TypeError(f"{name} is a {type(attention).__name__}, whose logits are not known")
        kept: dict[str, torch.Tensor] = {}

        def keep_queries(module: nn.Module, inputs: Any, q_BTX: torch.Tensor) -> None:
            q_THX = q_BTX[0, :TOKENS].detach().unflatten(-1, (attention.heads, -1))
            kept["q"] = q_THX[..., : attention.nope_width]

        def join_keys(module: nn.Module, inputs: Any, kv_BTX: torch.Tensor) -> None:
            k_THX = kv_BTX[0, :TOKENS].detach().unflatten(-1, (attention.heads, -1))
            logits_HTS = torch.einsum("thn,shn->hts", kept.pop("q"), k_THX[..., : attention.nope_width])
            self.found[f"{name} logits"] = rms(logits_HTS * attention.softmax_scale)

        yield attention.register_forward_hook(self._keep(name))
        yield attention.q_b_proj.register_forward_hook(keep_queries)
        yield attention.kv_b_proj.register_forward_hook(join_keys)
