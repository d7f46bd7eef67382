"""Attention over cached latents on GPUs: the kernels of `mla_paged_decode`, with the cache divided into pages.

All pages have the same size, and the page table covers the whole memory between rows of the cache, so a view that grows
with every step (`cache[:, :length]`) is the same call with different lengths. The gradient, which decoding does not
need, is computed with the reference.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.mla_decode import reference
from longcat.kernels.mla_paged_decode import triton as paged

PAGE = 64  # positions


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
        lengths_B: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC, lengths_B)
        ctx.scale = scale
        batch, positions, _ = latent_BSC.shape
        q_BTHC = torch.einsum("bthn,hnc->bthc", q_nope_BTHN, w_key_HNC)
        pages, pages_a_row = _pages(latent_BSC, k_rope_BSR)
        table_BM = _table(batch, pages_a_row, latent_BSC.device)
        if lengths_B is None:
            lengths_B = torch.full((batch,), positions, dtype=torch.int32, device=latent_BSC.device)
        mixed_BTHC = paged.decode_pages(q_BTHC, q_rope_BTHR, pages, table_BM, lengths_B, scale, None)
        return torch.einsum("bthc,hvc->bthv", mixed_BTHC, w_value_HVC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *saved, lengths_B = ctx.saved_tensors
        inputs = [x.detach().requires_grad_() for x in saved]
        q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC = inputs
        with torch.enable_grad():
            o_BTHV = reference.mla_decode(
                q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC, ctx.scale, lengths_B
            )
        return *torch.autograd.grad(o_BTHV, inputs, gradients[0]), None, None


def mla_decode(
    q_nope_BTHN: torch.Tensor,
    q_rope_BTHR: torch.Tensor,
    latent_BSC: torch.Tensor,
    k_rope_BSR: torch.Tensor,
    w_key_HNC: torch.Tensor,
    w_value_HVC: torch.Tensor,
    scale: float,
    lengths_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `kernels.mla_decode.mla_decode`."""
    inputs = (q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC)
    if not paged.runs({x.dtype for x in inputs}, latent_BSC.shape[-1], k_rope_BSR.shape[-1]):
        return reference.mla_decode(*inputs, scale, lengths_B)
    o_BTHV: torch.Tensor = _Decode.apply(*inputs, scale, lengths_B)
    return o_BTHV


def _pages(latent_BSC: torch.Tensor, k_rope_BSR: torch.Tensor) -> tuple[paged.Pages, int]:
    """The cache as pages, without a copy if possible, and pages per row; page p of row b has index `b * pages + p`."""
    apart = {_positions_apart(x) for x in (latent_BSC, k_rope_BSR)}
    if len(apart) > 1 or 0 in apart:
        latent_BSC, k_rope_BSR = (x.clone(memory_format=torch.contiguous_format) for x in (latent_BSC, k_rope_BSR))
        apart = {latent_BSC.shape[1]}
    (positions,) = apart
    size = math.gcd(PAGE, positions)
    strides = ((size * x.stride(1), x.stride(1)) for x in (latent_BSC, k_rope_BSR))
    return paged.Pages(latent_BSC, k_rope_BSR, size, *strides), positions // size


def _positions_apart(x_BSW: torch.Tensor) -> int:
    """Number of positions between two batch rows in memory; 0 if it is not an integer or rows overlap."""
    row, slot, last = x_BSW.stride()
    if last != 1 or slot == 0 or row % slot or row // slot < x_BSW.shape[1]:
        return 0
    return row // slot


@lru_cache(maxsize=64)
def _table(batch: int, pages: int, device: torch.device) -> torch.Tensor:
    return torch.arange(batch * pages, dtype=torch.int32, device=device).view(batch, pages)


def launches(chip: Chip) -> list[Launch]:
    """The launches of `mla_paged_decode`, whose kernels are used."""
    return paged.launches(chip)
