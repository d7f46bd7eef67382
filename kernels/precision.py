"""Precision of reductions."""

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32, so that half-precision inputs are reduced in float32 and float64 stays float64."""
    return torch.promote_types(dtype, torch.float32)
