"""The quantised operators of torch that packed matrices use; its Python interface to them is deprecated.

pytorch#184982 plans to remove `torch.ao.quantization` and `quantize_per_channel`. Nothing outside this module calls
either of them or the `quantized` operators.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

ENGINE = "x86"


def missing() -> str | None:
    """Why the operators cannot be used here, or None."""
    if ENGINE not in torch.backends.quantized.supported_engines:
        return f"torch is built without the quantised engine {ENGINE!r}"
    names = ("linear_prepack", "linear_dynamic", "linear_prepack_fp16", "linear_dynamic_fp16")
    absent = [name for name in names if not hasattr(torch.ops.quantized, name)]
    return f"torch has no operator quantized::{absent[0]}" if absent else None


def pack_int8(weight_OI: torch.Tensor, scale_O: torch.Tensor) -> Any:
    """Packed form of int8 values [O, I], each row times its scale."""
    zero_O = torch.zeros(len(scale_O), dtype=torch.int64)
    with warnings.catch_warnings(), _engine():
        warnings.simplefilter("ignore")
        quantised = torch._make_per_channel_quantized_tensor(weight_OI.contiguous(), scale_O.double(), zero_O, 0)
        return torch.ops.quantized.linear_prepack(quantised, None)


def int8_product(packed: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """`x W^T`, `x` rounded to 8 bits (7 where sums of 8-bit products would overflow) between its extremes."""
    operator, reduced = _direct("linear_dynamic"), _overflows()
    return lambda x_NI: operator(x_NI, packed, reduced)


def pack_fp16(weight_OI: torch.Tensor) -> Any:
    """Packed form of a float32 matrix, rounded to float16."""
    with _engine():
        return torch.ops.quantized.linear_prepack_fp16(weight_OI.contiguous(), None)


def fp16_product(packed: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """`x W^T` in float32."""
    operator = _direct("linear_dynamic_fp16")
    return lambda x_NI: operator(x_NI, packed)


def _direct(name: str) -> Callable[..., torch.Tensor]:
    """The operator without torch's search for arguments that are traced, which takes longer than a small product."""
    overload: Any = getattr(torch.ops.quantized, name).default
    operator: Callable[..., torch.Tensor] = getattr(overload, "_op", overload)
    return operator


class _engine:  # noqa: N801  a context manager
    """Selects the engine that packs; the choice of the process is restored."""

    def __enter__(self) -> None:
        self.before = torch.backends.quantized.engine
        torch.backends.quantized.engine = ENGINE

    def __exit__(self, *exception: object) -> None:
        torch.backends.quantized.engine = self.before


@lru_cache(maxsize=1)
def _overflows() -> bool:
    """Whether the largest products overflow: without VNNI, processors add pairs of them in 16 bits."""
    width = 64
    packed = pack_int8(torch.full((width, width), 127, dtype=torch.int8), torch.ones(width))
    # Half of the rows' range is positive, so that the zero point is in the middle and the values reach both ends.
    x_NI = torch.ones(1, width)
    x_NI[0, :2] = -1.0
    y_NO = torch.ops.quantized.linear_dynamic.default(x_NI, packed, False)
    exact = 127.0 * (width - 4)
    return bool((y_NO - exact).abs().max() > 0.01 * exact)
