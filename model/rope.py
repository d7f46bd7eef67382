"""Angles of the rotary position embedding."""

from functools import lru_cache

import torch

from longcat.model.rope_scaling import RopeScaling


def rope_angles(start: int, tokens: int, width: int, theta: float, device: torch.device) -> torch.Tensor:
    """Angles `position * theta^(-2i / width)` in radians of `tokens` positions from `start` on, float64 [T, width / 2].

    In float64, because float32 leaves an error of 0.005 radians at position 131,072.
    """
    return rope_angles_at(torch.arange(start, start + tokens, device=device), width, theta)


def rope_angles_at(
    positions_T: torch.Tensor, width: int, theta: float, scaling: RopeScaling | None = None
) -> torch.Tensor:
    """`rope_angles` of any positions, with the frequencies of `scaling`."""
    return torch.outer(positions_T.double(), _frequencies(width, theta, scaling, positions_T.device))


@lru_cache(maxsize=16)
def _frequencies(width: int, theta: float, scaling: RopeScaling | None, device: torch.device) -> torch.Tensor:
    """Radians per position, float64 [width / 2]."""
    exponents_P = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
    frequencies_P = theta**-exponents_P
    if scaling is None:
        return frequencies_P
    return frequencies_P * torch.tensor(scaling.slowed(width, theta), dtype=torch.float64, device=device)
