"""Attention over cached latents on graphics processors: the kernels of `mla_paged_decode`, a row of the batch a page.

The gradient, which decoding has no use for, goes through the reference.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.mla_decode import reference
from longcat.kernels.mla_paged_decode import triton as paged


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        w_key_HNC: torch.Tensor,
        w_value_HVC: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC)
        ctx.scale = scale
        batch, positions, _ = latent_BSC.shape
        q_BTHC = torch.einsum("bthn,hnc->bthc", q_nope_BTHN, w_key_HNC)
        rows_B1 = torch.arange(batch, dtype=torch.int32, device=latent_BSC.device).unsqueeze(1)
        lengths_B = torch.full((batch,), positions, dtype=torch.int32, device=latent_BSC.device)
        mixed_BTHC = paged.decode_pages(q_BTHC, q_rope_BTHR, latent_BSC, k_rope_BSR, rows_B1, lengths_B, scale)
        return torch.einsum("bthc,hvc->bthv", mixed_BTHC, w_value_HVC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC = inputs
        with torch.enable_grad():
            o_BTHV = reference.mla_decode(
                q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC, ctx.scale
            )
        return *torch.autograd.grad(o_BTHV, inputs, gradients[0]), None


def mla_decode(
    q_nope_BTHN: torch.Tensor,
    q_rope_BTHR: torch.Tensor,
    latent_BSC: torch.Tensor,
    k_rope_BSR: torch.Tensor,
    w_key_HNC: torch.Tensor,
    w_value_HVC: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """See `kernels.mla_decode.mla_decode`."""
    inputs = (q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC)
    if not paged.runs({x.dtype for x in inputs}, latent_BSC.shape[-1], k_rope_BSR.shape[-1]):
        return reference.mla_decode(*inputs, scale)
    o_BTHV: torch.Tensor = _Decode.apply(*inputs, scale)
    return o_BTHV


def launches(chip: Chip) -> list[Launch]:
    """Those of `mla_paged_decode`, whose kernels run here."""
    return paged.launches(chip)
