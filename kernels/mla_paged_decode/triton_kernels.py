"""Attention over latents in pages on graphics processors: parts of a sequence at once, then their sum in order.

Heads share what is cached, so a tile has heads (of all new tokens) as its rows. A sequence is cut into at most PARTS
parts by its own length alone, and every part leaves its mean of the latents and the logarithm, to base 2, of its
normaliser.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # below every score, yet finite, so that rows which see nothing get no NaN
# The interpreter multiplies bfloat16 matrices as if their bits were integers.
UPCAST = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _part_length(length, PARTS: tl.constexpr, LEAST: tl.constexpr):
    return tl.cdiv(length, PARTS * LEAST) * LEAST


@triton.jit
def _rows(ptr, start, known, width, WIDTH: tl.constexpr, CHECK: tl.constexpr, WHOLE: tl.constexpr):
    """The rows that begin at `start`, zero beyond `width` unless WHOLE, and where they are not known if CHECK."""
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
    q_latent_ptr, q_rope_ptr, latent_ptr, rope_ptr, table_ptr, lengths_ptr, mean_ptr, lse_ptr, tokens, heads, capacity,
    page_size, parts, latent_width, rope_width, scale, q_latent_batch, q_latent_token, q_latent_head, q_rope_batch,
    q_rope_token, q_rope_head, latent_page, latent_slot, rope_page, rope_slot, table_row,
    LATENT: tl.constexpr, ROPE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
    LEAST: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    blocks = tl.cdiv(tokens * heads, ROWS)
    part, batch = program % parts, (program // parts // blocks).to(tl.int64)
    row = program // parts % blocks * ROWS + tl.arange(0, ROWS)
    length = tl.minimum(tl.load(lengths_ptr + batch), capacity)
    low = part * _part_length(length, PARTS, LEAST)
    if low >= length:
        return
    high = tl.minimum(low + _part_length(length, PARTS, LEAST), length)
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
        # Beyond the end the last position is read again, since it is there, and gets no weight.
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
    place = (batch * parts + part) * (tokens * heads) + row
    total = tl.where(total == 0.0, 1.0, total)
    tl.store(lse_ptr + place, peak + tl.log2(total), mask=real)
    column = tl.arange(0, LATENT)
    mean = acc / total[:, None]
    inside = real[:, None] & (column < latent_width)[None, :]
    tl.store(mean_ptr + place[:, None] * latent_width + column[None, :], mean, mask=inside)


@triton.jit
def sum_kernel(
    mean_ptr, lse_ptr, lengths_ptr, o_ptr, rows, capacity, parts, latent_width,
    LATENT: tl.constexpr, PARTS: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """One row, a head of a token, of one sequence: the parts weighted by their normalisers, in order."""
    program = tl.program_id(0)
    batch, row = (program // rows).to(tl.int64), program % rows
    length = tl.minimum(tl.load(lengths_ptr + batch), capacity)
    count = tl.cdiv(length, tl.maximum(_part_length(length, PARTS, LEAST), 1))
    first = batch * parts * rows + row
    part, column = tl.arange(0, PARTS), tl.arange(0, LATENT)
    inside = column < latent_width
    lse = tl.load(lse_ptr + first + part * rows, mask=part < count, other=LOWEST)
    peak = tl.max(lse, 0)
    total = tl.sum(tl.exp2(lse - peak), 0)
    acc = tl.zeros((LATENT,), dtype=tl.float32)
    for index in range(count):
        place = first + index * rows
        mean = tl.load(mean_ptr + place * latent_width + column, mask=inside, other=0.0)
        acc += tl.exp2(tl.load(lse_ptr + place) - peak) * mean
    tl.store(o_ptr + (batch * rows + row) * latent_width + column, acc / total, mask=inside)
