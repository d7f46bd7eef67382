"""Scores on GPUs: a tile of queries and keys, all heads one after the other in registers.

Names: T queries, S keys, J heads, I width of a head.
"""

import torch
import triton
import triton.language as tl

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.index_scores import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 256
QUERIES, KEYS = 64, 64
# The interpreter would multiply bfloat16 matrices as integers.
UPCAST = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def scores_kernel(
    q_ptr, k_ptr, w_ptr, scores_ptr, queries, keys, heads, width,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(keys, KEYS)
    program = tl.program_id(0)
    row = (program // blocks * QUERIES + tl.arange(0, QUERIES)).to(tl.int64)
    key = (program % blocks * KEYS + tl.arange(0, KEYS)).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside, known, real = column < width, key < keys, row < queries
    k = tl.load(k_ptr + key[:, None] * width + column[None, :], mask=known[:, None] & inside[None, :], other=0.0)
    k = tl.trans(k.to(tl.float32) if UPCAST else k)
    acc = tl.zeros((QUERIES, KEYS), dtype=tl.float32)
    for head in range(heads):
        place = row * heads + head
        q = tl.load(q_ptr + place[:, None] * width + column[None, :], mask=real[:, None] & inside[None, :], other=0.0)
        q = q.to(tl.float32) if UPCAST else q
        weight = tl.load(w_ptr + place, mask=real, other=0.0).to(tl.float32)
        acc += weight[:, None] * tl.maximum(tl.dot(q, k, input_precision="ieee"), 0.0)
    tl.store(scores_ptr + row[:, None] * keys + key[None, :], acc, mask=real[:, None] & known[None, :])


def index_scores(q_TJI: torch.Tensor, k_SI: torch.Tensor, w_TJ: torch.Tensor) -> torch.Tensor:
    """See `kernels.index_scores.index_scores`."""
    queries, heads, width = q_TJI.shape
    if q_TJI.dtype not in DTYPES or k_SI.dtype != q_TJI.dtype or width > MAX_WIDTH:
        return reference.index_scores(q_TJI, k_SI, w_TJ)
    q_TJI, k_SI, w_TJ = q_TJI.contiguous(), k_SI.contiguous(), w_TJ.contiguous()
    keys = k_SI.shape[0]
    scores_TS = torch.empty(queries, keys, dtype=torch.float32, device=q_TJI.device)
    programs = triton.cdiv(queries, QUERIES) * triton.cdiv(keys, KEYS)
    scores_kernel[(programs,)](q_TJI, k_SI, w_TJ, scores_TS, queries, keys, heads, width, **_constants(width))
    return scores_TS


def _constants(width: int) -> dict[str, int]:
    return {"QUERIES": QUERIES, "KEYS": KEYS, "WIDTH": max(16, triton.next_power_of_2(width))}


def launches(chip: Chip) -> list[Launch]:
    """Launches for the indexer of LongCat-2.0, 32 heads of 128."""
    arguments = dict.fromkeys(("q_ptr", "k_ptr", "w_ptr"), "*bf16") | {"scores_ptr": "*fp32"}
    arguments |= dict.fromkeys(("queries", "keys", "heads", "width"), "i32")
    return [Launch("scores", scores_kernel, arguments, _constants(128), ("heads", "width"))]
