"""Activation sizes of a model, measured by hooks during a forward pass.

Names: B batch, T tokens, D hidden, V vocabulary, H heads, N width without position.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import nn

from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.transformer import BackboneOutput, LongcatFlash

# Attention and output logits of the first tokens of the first text suffice for a mean.
TOKENS = 64


def rms(x: torch.Tensor) -> float:
    """Root mean square of all elements."""
    return x.detach().double().square().mean().sqrt().item()


class Probe:
    """Collects the root mean square of every quantity by name, per forward pass."""

    def __init__(self, model: LongcatFlash) -> None:
        self.model = model
        self.found: dict[str, float] = {}

    @contextmanager
    def attached(self) -> Iterator[Probe]:
        """Context in which every forward pass of the model is measured."""
        backbone = self.model.model
        with ExitStack() as stack:
            stack.callback(backbone.embed_tokens.register_forward_hook(self._keep("embedding")).remove)
            for index, layer in enumerate(backbone.layers):
                stack.callback(layer.register_forward_hook(self._keep(f"layer {index}")).remove)
                for place, attention in enumerate(cast(nn.ModuleList, layer.self_attn)):
                    stack.enter_context(self._watch_attention(attention, f"layer {index} attention {place}"))
            yield self

    @torch.no_grad()
    def read(self, output: BackboneOutput) -> dict[str, float]:
        """Figures of the last forward pass, with result `output`."""
        for index, routing in enumerate(output.routing):
            self.found[f"layer {index} router logits"] = rms(routing.logits_TE)
        hidden_TD = output.hidden_BTD[0, :TOKENS]
        self.found["output logits"] = rms(hidden_TD @ self.model.output_weight.T)
        return dict(self.found)

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.found[name] = rms(output[0] if isinstance(output, tuple) else output)

        return hook

    @contextmanager
    def _watch_attention(self, attention: nn.Module, name: str) -> Iterator[None]:
        """Attention output, and the non-rotary part of the logits."""
        if not isinstance(attention, MultiHeadLatentAttention):
            raise TypeError(f"{name} is a {type(attention).__name__}, whose logits cannot be measured")
        attend = attention.attend

        def measured(q_nope_BTHN: torch.Tensor, *others: Any, **flags: Any) -> torch.Tensor:
            with torch.no_grad():
                latent_BTC = others[1]
                kv_THX = attention.kv_b_proj(latent_BTC[:1, :TOKENS])[0].unflatten(-1, (attention.heads, -1))
                k_THN = kv_THX[..., : attention.nope_width]
                logits_HTS = torch.einsum("thn,shn->hts", q_nope_BTHN[0, :TOKENS], k_THN)
                self.found[f"{name} logits"] = rms(logits_HTS * attention.softmax_scale)
            return attend(q_nope_BTHN, *others, **flags)

        handle = attention.register_forward_hook(self._keep(name))
        attention.attend = measured  # type: ignore[method-assign]
        try:
            yield
        finally:
            handle.remove()
            del attention.attend
