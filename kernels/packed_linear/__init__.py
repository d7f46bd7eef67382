"""Matrices packed once for inference on a CPU, in one of several forms.

    plain   float32 as it is                         exact
    fp32    float32 in blocks                        exact
    both    plain for one row, fp32 for more         exact, twice the memory
    fp16    float16, float32 rows                    weights within 2^-11
    bf16    bfloat16 weights and rows                within 2^-8 each
    int8    int8 weights and rows, a scale each      rounded to 1/127 of the largest of a matrix row and of a row
    int4    int4 weights, bfloat16 rows              rounded to 1/7 of the largest of 32 columns

Names: N rows, I inputs, O outputs.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch

from longcat.kernels.packed_linear import torch_quantized
from longcat.kernels.packed_linear.base import PackedMatrix, Rows
from longcat.kernels.packed_linear.bf16 import BFloat16Matrix
from longcat.kernels.packed_linear.fp16 import Float16Matrix
from longcat.kernels.packed_linear.fp32 import BlockedMatrix, DoubleMatrix, PlainMatrix
from longcat.kernels.packed_linear.int4 import Int4Matrix
from longcat.kernels.packed_linear.int8 import Int8Matrix
from longcat.kernels.select import KernelError

__all__ = ["FORMS", "PackedMatrix", "Rows", "missing", "pack"]

FORMS: Mapping[str, Callable[[torch.Tensor], PackedMatrix]] = {
    "plain": PlainMatrix,
    "fp32": BlockedMatrix,
    "both": DoubleMatrix,
    "fp16": Float16Matrix,
    "bf16": BFloat16Matrix,
    "int8": Int8Matrix,
    "int4": Int4Matrix,
}


def pack(weight_OI: torch.Tensor, form: str) -> PackedMatrix:
    """`weight_OI`, float32 or narrower, in a form; `plain` and `both` keep it without a copy.

    Raises:
        KernelError: an unknown form, one that this machine does not have, or values that it cannot hold.
    """
    if form not in FORMS:
        raise KernelError(f"packed_linear: unknown form {form!r}, choose one of {', '.join(FORMS)}")
    reason = missing(form)
    if reason is not None:
        raise KernelError(f"packed_linear: {form} cannot be used here: {reason}; use fp32 or plain")
    if weight_OI.device.type != "cpu" or weight_OI.dim() != 2:
        raise KernelError(
            f"packed_linear: expected a matrix on the CPU, got {list(weight_OI.shape)} on {weight_OI.device}"
        )
    with torch.no_grad():
        return FORMS[form](weight_OI.detach().float())


@lru_cache(maxsize=16)
def missing(form: str) -> str | None:
    """Why this machine cannot use a form, or None. Says nothing about its speed."""
    if form in ("fp16", "int8"):
        return torch_quantized.missing()
    if form == "int4" and not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        return "torch has no operator aten::_weight_int4pack_mm_for_cpu"
    if form in ("fp32", "both", "bf16") and not torch.backends.mkldnn.is_available():
        return "torch is built without oneDNN"
    if form == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN has no products of bfloat16 for this processor"
    return None
