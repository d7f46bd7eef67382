"""Half precision, and the precision of reductions."""

import torch

HALF_DTYPES = (torch.bfloat16, torch.float16)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32, so that half-precision inputs are reduced in float32 and float64 stays float64."""
    return torch.promote_types(dtype, torch.float32)
