"""Short causal convolution, the reference implementation."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from longcat.kernels.precision import accumulation_dtype


def short_convolution(x_BTX: torch.Tensor, weight_XS: torch.Tensor, first_BT: torch.Tensor | None) -> torch.Tensor:
    """See `kernels.short_convolution.short_convolution`; `first_BT`: places of the first tokens of the documents."""
    wide = accumulation_dtype(x_BTX.dtype)
    tokens, taps = x_BTX.shape[1], weight_XS.shape[1]
    weight_XS, sum_BTX = weight_XS.to(wide), torch.zeros_like(x_BTX, dtype=wide)
    for back in range(taps):
        earlier_BTX = F.pad(x_BTX.to(wide), (0, 0, back, 0))[:, :tokens]
        if first_BT is not None:
            earlier_BTX = earlier_BTX.masked_fill(reaches_over(first_BT, back).unsqueeze(-1), 0)
        sum_BTX = sum_BTX + earlier_BTX * weight_XS[:, taps - 1 - back]
    return F.silu(sum_BTX).to(x_BTX.dtype)


def reaches_over(first_BT: torch.Tensor, back: int) -> torch.Tensor:
    """Whether the token `back` tokens before belongs to another document, bool [B, T]."""
    places_T = torch.arange(first_BT.shape[1], device=first_BT.device)
    return places_T - first_BT < back
