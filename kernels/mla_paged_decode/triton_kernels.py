"""Attention over paged latents on GPUs: the parts of a sequence in parallel, then their sum in a fixed order.

Heads share the cached values, so the rows of a tile are heads (of all new tokens). A sequence is split into at most
`parts` parts according to its length; the length of a part is a multiple of LEAST. Every part writes the weighted mean
of its latents and the base-2 logarithm of its normaliser. A single part (SINGLE) writes the result directly.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # below every score, but finite, so that rows without visible keys do not give NaN
# The interpreter would multiply bfloat16 matrices as integers.
UPCAST = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _part_length(length, parts, LEAST: tl.constexpr):
    return tl.cdiv(length, parts * LEAST) * LEAST


@triton.jit
def _rows(ptr, start, known, width, WIDTH: tl.constexpr, CHECK: tl.constexpr, WHOLE: tl.constexpr):
    """Rows at offsets `start`. Unless WHOLE, zero beyond `width`; with CHECK, zero for rows that are not `known`."""
    column = tl.arange(0, WIDTH)
    at = ptr + start[:, None] + column[None, :]
    if CHECK:
        x = tl.load(at, mask=known[:, None] if WHOLE else known[:, None] & (column < width)[None, :], other=0.0)
    elif WHOLE:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=(column < width)[None, :], other=0.0)
    return x.to(tl.float32) if UPCAST else x


@triton.jit
def part_kernel(
    q_latent_ptr, q_rope_ptr, latent_ptr, rope_ptr, table_ptr, lengths_ptr, mean_ptr, lse_ptr, o_ptr, tokens, heads,
    capacity, page_size, parts, latent_width, rope_width, scale, q_latent_batch, q_latent_token, q_latent_head,
    q_rope_batch, q_rope_token, q_rope_head, latent_page, latent_slot, rope_page, rope_slot, table_row,
    LATENT: tl.constexpr, ROPE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, LEAST: tl.constexpr,
    WHOLE: tl.constexpr, SINGLE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    blocks = tl.cdiv(tokens * heads, ROWS)
    part, batch = program % parts, (program // parts // blocks).to(tl.int64)
    row = program // parts % blocks * ROWS + tl.arange(0, ROWS)
    length = tl.minimum(tl.load(lengths_ptr + batch), capacity)
    if SINGLE:
        low, high = 0, length
    else:
        low = part * _part_length(length, parts, LEAST)
        if low >= length:
            return
        high = tl.minimum(low + _part_length(length, parts, LEAST), length)
    token, head = row // heads, row % heads
    real = row < tokens * heads
    at_latent = batch * q_latent_batch + token * q_latent_token + head * q_latent_head
    at_rope = batch * q_rope_batch + token * q_rope_token + head * q_rope_head
    q_latent = _rows(q_latent_ptr, at_latent, real, latent_width, LATENT, True, WHOLE)
    q_rope = _rows(q_rope_ptr, at_rope, real, rope_width, ROPE, True, WHOLE)
    acc = tl.zeros((ROWS, LATENT), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    peak = total + LOWEST
    table_ptr += batch * table_row
    last = tl.minimum(length - tokens + token, high - 1)
    for start in range(low, high, BLOCK):
        position = start + tl.arange(0, BLOCK)
        # Beyond the end the last position is read again, with weight zero, so that all reads are valid.
        cached = tl.minimum(position, high - 1)
        page, slot = tl.load(table_ptr + cached // page_size).to(tl.int64), cached % page_size
        latent = _rows(latent_ptr, page * latent_page + slot * latent_slot, real, latent_width, LATENT, False, WHOLE)
        rope = _rows(rope_ptr, page * rope_page + slot * rope_slot, real, rope_width, ROPE, False, WHOLE)
        scores = tl.dot(q_latent, tl.trans(latent), input_precision="ieee")
        scores = tl.dot(q_rope, tl.trans(rope), scores, input_precision="ieee") * (scale * LOG2_E)
        scores = tl.where(position[None, :] <= last[:, None], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights, shrink = tl.exp2(scores - higher[:, None]), tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weights, 1)
        acc = tl.dot(weights.to(latent.dtype), latent, acc * shrink[:, None], input_precision="ieee")
        peak = higher
    first = (batch if SINGLE else batch * parts + part) * (tokens * heads)
    total = tl.where(total == 0.0, 1.0, total)
    column = tl.arange(0, LATENT)
    mean = acc / total[:, None]
    inside = real[:, None] & (column < latent_width)[None, :]
    at = row[:, None] * latent_width + column[None, :]
    if SINGLE:
        tl.store(o_ptr + first * latent_width + at, mean, mask=inside)
    else:
        tl.store(lse_ptr + first + row, peak + tl.log2(total), mask=real)
        tl.store(mean_ptr + first * latent_width + at, mean, mask=inside)


@triton.jit
def sum_kernel(
    mean_ptr, lse_ptr, lengths_ptr, o_ptr, rows, capacity, parts, latent_width,
    PARTS: tl.constexpr, LEAST: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Columns of one row (head and token) of one sequence: the sum of the parts, weighted by their normalisers."""
    program = tl.program_id(0)
    batch, row = (program // rows).to(tl.int64), program % rows
    length = tl.minimum(tl.load(lengths_ptr + batch), capacity)
    count = tl.cdiv(length, tl.maximum(_part_length(length, parts, LEAST), 1))
    part, column = tl.arange(0, PARTS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place = batch * parts * rows + row + part * rows
    lse = tl.load(lse_ptr + place, mask=part < count, other=LOWEST)
    weight = tl.exp2(lse - tl.max(lse, 0))
    inside = (part < count)[:, None] & (column < latent_width)[None, :]
    mean = tl.load(mean_ptr + place[:, None] * latent_width + column[None, :], mask=inside, other=0.0)
    o = tl.sum(mean * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(o_ptr + (batch * rows + row) * latent_width + column, o, mask=column < latent_width)
