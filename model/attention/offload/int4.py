"""INT4 vectors: codes from -7 to 7 times a scale for every GROUP channels.

A byte holds the codes of channel c (low) and c + C / 2 (high), each plus 8. The error of a value is at most half its
scale, which is the bfloat16 nearest to a seventh of the largest value of the group.

Names: X vectors, C channels (a multiple of GROUP, see `padded`), G groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

GROUP = 32
LARGEST, ZERO = 7, 8


class Int4(NamedTuple):
    """codes: uint8 [..., C / 2]. scales: bfloat16 [..., G]."""

    codes: torch.Tensor
    scales: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.codes.nbytes + self.scales.nbytes


def padded(channels: int) -> int:
    """Channels that are stored, a multiple of GROUP; those added are zero."""
    return -(-channels // GROUP) * GROUP


def empty(shape: tuple[int, ...], channels: int, device: torch.device) -> Int4:
    """Zeros: memory of vectors [*shape, padded(channels)]."""
    width = padded(channels)
    codes = torch.full((*shape, width // 2), ZERO << 4 | ZERO, dtype=torch.uint8, device=device)
    return Int4(codes, torch.zeros(*shape, width // GROUP, dtype=torch.bfloat16, device=device))


def quantize(x: torch.Tensor) -> Int4:
    """Quantise vectors [..., channels]."""
    missing = padded(x.shape[-1]) - x.shape[-1]
    groups = (F.pad(x, (0, missing)) if missing else x).float().unflatten(-1, (-1, GROUP))
    scales = (groups.abs().amax(dim=-1) / LARGEST).bfloat16()
    step = scales.float().unsqueeze(-1)
    codes = torch.where(step > 0, groups / step, 0.0).round_().clamp_(-LARGEST, LARGEST).flatten(-2)
    low, high = codes.add_(ZERO).to(torch.uint8).chunk(2, dim=-1)
    return Int4(low | high << 4, scales)


def dequantize(packed: Int4, dtype: torch.dtype) -> torch.Tensor:
    """The vectors [..., C]."""
    half, groups = packed.codes.shape[-1], packed.scales.shape[-1]
    x = torch.empty(*packed.codes.shape[:-1], 2 * half, dtype=dtype, device=packed.codes.device)
    torch.bitwise_and(packed.codes, 15, out=(low := torch.empty_like(packed.codes)))
    x[..., :half].copy_(low)
    x[..., half:].copy_(packed.codes >> 4)
    x.sub_(ZERO).unflatten(-1, (groups, GROUP)).mul_(packed.scales.unsqueeze(-1))
    return x
