"""Triton kernels of attention over chosen positions.

A program of the first two has one query and HEADS heads, and reads its positions in blocks; one of the third has one
position, and reads the queries that chose it in increasing order, so that no sum depends on the order of programs.
"""

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LOWEST: tl.constexpr = tl.constexpr(-1e30)  # finite, so that queries without positions do not give NaN
# The interpreter would multiply bfloat16 matrices as integers.
UPCAST = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _rows(ptr, start, known, width, WIDTH: tl.constexpr):
    column = tl.arange(0, WIDTH)
    x = tl.load(ptr + start[:, None] + column[None, :], mask=known[:, None] & (column < width)[None, :], other=0.0)
    return x.to(tl.float32) if UPCAST else x


@triton.jit
def _query(program, heads, HEADS: tl.constexpr):
    """Query of all rows, and heads, of a program."""
    blocks = tl.cdiv(heads, HEADS)
    return (program // blocks).to(tl.int64), program % blocks * HEADS + tl.arange(0, HEADS)


@triton.jit
def forward_kernel(
    q_ptr, e_ptr, chosen_ptr, o_ptr, lse_ptr, tokens, positions, heads, count, latent_width, width, scale,
    LATENT: tl.constexpr, ROPE: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    query, head = _query(tl.program_id(0), heads, HEADS)
    real, place, rope_width = head < heads, query * heads + head, width - latent_width
    q_latent = _rows(q_ptr, place * width, real, latent_width, LATENT)
    q_rope = _rows(q_ptr + latent_width, place * width, real, rope_width, ROPE)
    e_ptr += query // tokens * positions * width
    acc = tl.zeros((HEADS, LATENT), dtype=tl.float32)
    total = tl.zeros((HEADS,), dtype=tl.float32)
    peak = total + LOWEST
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        at = tl.load(chosen_ptr + query * count + index, mask=index < count, other=-1)
        known = at >= 0
        latent = _rows(e_ptr, at * width, known, latent_width, LATENT)
        rope = _rows(e_ptr + latent_width, at * width, known, rope_width, ROPE)
        scores = tl.dot(q_latent, tl.trans(latent), input_precision="ieee")
        scores = tl.dot(q_rope, tl.trans(rope), scores, input_precision="ieee") * (scale * LOG2_E)
        scores = tl.where(known[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights, shrink = tl.exp2(scores - higher[:, None]), tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weights, 1)
        acc = tl.dot(weights.to(latent.dtype), latent, acc * shrink[:, None], input_precision="ieee")
        peak = higher
    total = tl.where(total == 0.0, 1.0, total)
    column = tl.arange(0, LATENT)
    inside = real[:, None] & (column < latent_width)[None, :]
    tl.store(o_ptr + place[:, None] * latent_width + column[None, :], acc / total[:, None], mask=inside)
    tl.store(lse_ptr + place, peak + tl.log2(total), mask=real)


@triton.jit
def queries_kernel(
    q_ptr, e_ptr, chosen_ptr, grad_o_ptr, lse_ptr, delta_ptr, grad_q_ptr, tokens, positions, heads, count,
    latent_width, width, scale, LATENT: tl.constexpr, ROPE: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    query, head = _query(tl.program_id(0), heads, HEADS)
    real, place, rope_width = head < heads, query * heads + head, width - latent_width
    q_latent = _rows(q_ptr, place * width, real, latent_width, LATENT)
    q_rope = _rows(q_ptr + latent_width, place * width, real, rope_width, ROPE)
    grad_o = _rows(grad_o_ptr, place * latent_width, real, latent_width, LATENT)
    lse = tl.load(lse_ptr + place, mask=real, other=0.0)
    delta = tl.load(delta_ptr + place, mask=real, other=0.0)
    e_ptr += query // tokens * positions * width
    acc_latent = tl.zeros((HEADS, LATENT), dtype=tl.float32)
    acc_rope = tl.zeros((HEADS, ROPE), dtype=tl.float32)
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        at = tl.load(chosen_ptr + query * count + index, mask=index < count, other=-1)
        known = at >= 0
        latent = _rows(e_ptr, at * width, known, latent_width, LATENT)
        rope = _rows(e_ptr + latent_width, at * width, known, rope_width, ROPE)
        scores = tl.dot(q_latent, tl.trans(latent), input_precision="ieee")
        scores = tl.dot(q_rope, tl.trans(rope), scores, input_precision="ieee") * (scale * LOG2_E)
        weights = tl.exp2(tl.where(known[None, :], scores - lse[:, None], float("-inf")))
        grad_weights = tl.dot(grad_o, tl.trans(latent), input_precision="ieee")
        grad_scores = (weights * (grad_weights - delta[:, None]) * scale).to(latent.dtype)
        acc_latent = tl.dot(grad_scores, latent, acc_latent, input_precision="ieee")
        acc_rope = tl.dot(grad_scores, rope, acc_rope, input_precision="ieee")
    column, rotary = tl.arange(0, LATENT), tl.arange(0, ROPE)
    grad_q_ptr += place[:, None] * width
    tl.store(grad_q_ptr + column[None, :], acc_latent, mask=real[:, None] & (column < latent_width)[None, :])
    tl.store(grad_q_ptr + latent_width + rotary[None, :], acc_rope, mask=real[:, None] & (rotary < rope_width)[None, :])


@triton.jit
def positions_kernel(
    q_ptr, e_ptr, query_ptr, first_ptr, grad_o_ptr, lse_ptr, delta_ptr, grad_e_ptr, heads, latent_width, width, scale,
    LATENT: tl.constexpr, ROPE: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64)
    column, rotary, rope_width = tl.arange(0, LATENT), tl.arange(0, ROPE), width - latent_width
    inside, turned = column < latent_width, rotary < rope_width
    e_ptr += position * width
    latent = tl.load(e_ptr + column, mask=inside, other=0.0).to(tl.float32)
    rope = tl.load(e_ptr + latent_width + rotary, mask=turned, other=0.0).to(tl.float32)
    acc_latent = tl.zeros((LATENT,), dtype=tl.float32)
    acc_rope = tl.zeros((ROPE,), dtype=tl.float32)
    blocks = tl.cdiv(heads, HEADS)
    begin, end = tl.load(first_ptr + position), tl.load(first_ptr + position + 1)
    for entry in range(0, (end - begin).to(tl.int32) * blocks):
        query = tl.load(query_ptr + begin + entry // blocks)
        head = entry % blocks * HEADS + tl.arange(0, HEADS)
        real, place = head < heads, query * heads + head
        q_latent = _rows(q_ptr, place * width, real, latent_width, LATENT).to(tl.float32)
        q_rope = _rows(q_ptr + latent_width, place * width, real, rope_width, ROPE).to(tl.float32)
        grad_o = _rows(grad_o_ptr, place * latent_width, real, latent_width, LATENT).to(tl.float32)
        lse = tl.load(lse_ptr + place, mask=real, other=0.0)
        delta = tl.load(delta_ptr + place, mask=real, other=0.0)
        scores = tl.sum(q_latent * latent[None, :], 1) + tl.sum(q_rope * rope[None, :], 1)
        weights = tl.exp2(tl.where(real, scores * (scale * LOG2_E) - lse, float("-inf")))
        grad_scores = weights * (tl.sum(grad_o * latent[None, :], 1) - delta) * scale
        acc_latent += tl.sum(grad_scores[:, None] * q_latent + weights[:, None] * grad_o, 0)
        acc_rope += tl.sum(grad_scores[:, None] * q_rope, 0)
    grad_e_ptr += position * width
    tl.store(grad_e_ptr + column, acc_latent, mask=inside)
    tl.store(grad_e_ptr + latent_width + rotary, acc_rope, mask=turned)
