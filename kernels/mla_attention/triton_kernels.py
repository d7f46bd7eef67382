"""Flash attention on GPUs (Dao 2023, algorithms 1 and 2), for keys wider than values and for documents.

The forward stores the base-2 logarithm of the normaliser of every query, and the backward recomputes the scores. One
kernel sums over queries for every block of keys, another over keys for every block of queries, so no atomics are
needed. Blocks that are not visible to any query of a tile are not read, and only blocks at the edges are masked.

Names: T tokens (queries), S keys; the head width Q is split into FIRST and REST, both powers of two as required for
tiles: 192 = 128 + 64. `begin` and `end` bound the document of a token within its row, end excluded.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # below every score, but finite, so that rows without visible keys do not give NaN
# The interpreter would multiply bfloat16 matrices as integers.
UPCAST = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _tile(
    ptr, start, stride, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr, CHECK: tl.constexpr, WHOLE: tl.constexpr
):
    """Rows from `start`, zero outside. CHECK: rows may end within the tile. WHOLE: columns fill the tile."""
    row, column = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    at = ptr + tl.cast(start, tl.int64) * stride + row[:, None] * stride + column[None, :]
    if CHECK:
        inside = (start + row < rows)[:, None]
        x = tl.load(at, mask=inside if WHOLE else inside & (column < width)[None, :], other=0.0)
    elif WHOLE:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=(column < width)[None, :], other=0.0)
    return x.to(tl.float32) if UPCAST else x


@triton.jit
def _vector(at, place, length, CHECK: tl.constexpr):
    return tl.load(at, mask=place < length, other=0.0) if CHECK else tl.load(at)


@triton.jit
def _store_tile(ptr, x, start, stride, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row, column = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    at = ptr + tl.cast(start, tl.int64) * stride + row[:, None] * stride + column[None, :]
    tl.store(at, x, mask=(start + row < rows)[:, None] & (column < width)[None, :])


@triton.jit
def _program(length, heads, BLOCK: tl.constexpr, BACKWARDS: tl.constexpr):
    """(start of the block, batch row, head); the blocks of a head run together, because they read the same data.

    BACKWARDS: reverse order, if the last block of a head has the most work, so that short programs run last.
    """
    blocks = tl.cdiv(length, BLOCK)
    program = tl.program_id(0)
    row, block = program // blocks, program % blocks
    if BACKWARDS:
        block = blocks - 1 - block
    return block * BLOCK, (row // heads).to(tl.int64), (row % heads).to(tl.int64)


@triton.jit
def _lowest(query, begin, size, block, WINDOW: tl.constexpr):
    """First position of the window of a query, without the sinks; `begin` is that of its document."""
    if not WINDOW:
        return begin
    return begin + tl.maximum((query - begin) // block * block + block - size, 0)


@triton.jit
def _key_bounds(
    begin_ptr, start, tokens, keys, size, block, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """(low, open, shut, high): keys read by a tile of queries, masked in low..open and shut..high, not in between."""
    last = tl.minimum(start + BLOCK_T, tokens) - 1
    shut = (start + keys - tokens + 1) // BLOCK_S * BLOCK_S
    if DOCUMENTS or WINDOW:
        first_begin, last_begin = tl.cast(0, tl.int32), tl.cast(0, tl.int32)
        if DOCUMENTS:
            first_begin, last_begin = tl.load(begin_ptr + start), tl.load(begin_ptr + last)
        low = _lowest(start + keys - tokens, first_begin, size, block, WINDOW) // BLOCK_S * BLOCK_S
        lowest = _lowest(last + keys - tokens, last_begin, size, block, WINDOW)
        open = tl.minimum(tl.cdiv(lowest, BLOCK_S) * BLOCK_S, shut)
    else:
        low, open = 0, 0
    return low, open, shut, last + keys - tokens + 1


@triton.jit
def _sink_bounds(begin_ptr, start, low, sinks, BLOCK_S: tl.constexpr, DOCUMENTS: tl.constexpr):
    """The same for the sinks before `low`, all masked; those of later documents of the tile are not before it."""
    begin = tl.load(begin_ptr + start) if DOCUMENTS else tl.cast(0, tl.int32)
    first = begin // BLOCK_S * BLOCK_S
    end = tl.maximum(tl.minimum(tl.cdiv(begin + sinks, BLOCK_S) * BLOCK_S, low), first)
    return first, end, end, end


@triton.jit
def _seen(key, query, begin, lowest, sinks, WINDOW: tl.constexpr):
    """Whether queries see keys: the two are vectors, and so are `begin` and `lowest` of every query."""
    seen = (key[None, :] <= query[:, None]) & (key[None, :] >= lowest[:, None])
    if WINDOW:
        seen |= (key[None, :] >= begin[:, None]) & (key[None, :] < tl.minimum(begin + sinks, query + 1)[:, None])
    return seen


@triton.jit
def _attend(
    acc, peak, total, q_first, q_rest, query, begin, lowest, sinks, k_ptr, v_ptr, k_token, v_token, bounds, keys,
    q_width, v_width, scale, FIRST: tl.constexpr, REST: tl.constexpr, VALUE: tl.constexpr, BLOCK_S: tl.constexpr,
    WHOLE: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    low, open, shut, high = bounds
    for place in range(low if MASKED else open, high - (shut - open) if MASKED else shut, BLOCK_S):
        start = (place + shut - open if place >= open else place) if MASKED else place
        k_first = _tile(k_ptr, start, k_token, keys, q_width, BLOCK_S, FIRST, MASKED, WHOLE)
        k_rest = _tile(k_ptr + FIRST, start, k_token, keys, q_width - FIRST, BLOCK_S, REST, MASKED, WHOLE)
        scores = tl.dot(q_first, tl.trans(k_first), input_precision="ieee")
        scores = tl.dot(q_rest, tl.trans(k_rest), scores, input_precision="ieee") * (scale * LOG2_E)
        if MASKED:
            key = start + tl.arange(0, BLOCK_S)
            scores = tl.where(_seen(key, query, begin, lowest, sinks, WINDOW), scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights, shrink = tl.exp2(scores - higher[:, None]), tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weights, 1)
        v = _tile(v_ptr, start, v_token, keys, v_width, BLOCK_S, VALUE, MASKED, WHOLE)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        peak = higher
    return acc, peak, total


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, begin_ptr, tokens, keys, heads, q_width, v_width, scale,
    size, sinks, block, q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    FIRST: tl.constexpr, REST: tl.constexpr, VALUE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    WHOLE: tl.constexpr, DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    start, batch, head = _program(tokens, heads, BLOCK_T, True)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    begin_ptr += batch * tokens
    token = start + tl.arange(0, BLOCK_T)
    query = token + (keys - tokens)
    begin = tl.load(begin_ptr + token, mask=token < tokens, other=0) if DOCUMENTS else tl.zeros_like(token)
    q_first = _tile(q_ptr, start, q_token, tokens, q_width, BLOCK_T, FIRST, True, WHOLE)
    q_rest = _tile(q_ptr + FIRST, start, q_token, tokens, q_width - FIRST, BLOCK_T, REST, True, WHOLE)
    acc = tl.zeros((BLOCK_T, VALUE), dtype=tl.float32)
    total = tl.zeros((BLOCK_T,), dtype=tl.float32)
    peak = total + LOWEST
    lowest = _lowest(query, begin, size, block, WINDOW)
    bounds = _key_bounds(begin_ptr, start, tokens, keys, size, block, BLOCK_T, BLOCK_S, DOCUMENTS, WINDOW)
    acc, peak, total = _attend(
        acc, peak, total, q_first, q_rest, query, begin, lowest, sinks, k_ptr, v_ptr, k_token, v_token, bounds, keys,
        q_width, v_width, scale, FIRST, REST, VALUE, BLOCK_S, WHOLE, WINDOW, False,
    )  # fmt: skip
    acc, peak, total = _attend(
        acc, peak, total, q_first, q_rest, query, begin, lowest, sinks, k_ptr, v_ptr, k_token, v_token, bounds, keys,
        q_width, v_width, scale, FIRST, REST, VALUE, BLOCK_S, WHOLE, WINDOW, True,
    )  # fmt: skip
    if WINDOW:
        of_sinks = _sink_bounds(begin_ptr, start, bounds[0], sinks, BLOCK_S, DOCUMENTS)
        acc, peak, total = _attend(
            acc, peak, total, q_first, q_rest, query, begin, lowest, sinks, k_ptr, v_ptr, k_token, v_token, of_sinks,
            keys, q_width, v_width, scale, FIRST, REST, VALUE, BLOCK_S, WHOLE, WINDOW, True,
        )  # fmt: skip
    tl.store(lse_ptr + (batch * heads + head) * tokens + token, peak + tl.log2(total), mask=token < tokens)
    o_ptr += (batch * tokens * heads + head) * v_width
    _store_tile(o_ptr, acc / total[:, None], start, heads * v_width, tokens, v_width, BLOCK_T, VALUE)


@triton.jit
def delta_kernel(o_ptr, grad_ptr, delta_ptr, rows, tokens, heads, v_width, ROWS: tl.constexpr, VALUE: tl.constexpr):
    """Dot product of output and gradient for every query (`delta` in the paper), with the layout of the normalisers."""
    start = tl.program_id(0) * ROWS
    o = _tile(o_ptr, start, v_width, rows, v_width, ROWS, VALUE, True, False).to(tl.float32)
    grad = _tile(grad_ptr, start, v_width, rows, v_width, ROWS, VALUE, True, False).to(tl.float32)
    row = start + tl.arange(0, ROWS)
    batch, token, head = row // heads // tokens, row // heads % tokens, row % heads
    at = delta_ptr + (batch * heads + head).to(tl.int64) * tokens + token
    tl.store(at, tl.sum(o * grad, 1), mask=row < rows)


@triton.jit
def _end(begin_ptr, end_ptr, key, keys, size, sinks, block, DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr):
    """One past the last position that sees each of these keys."""
    end = tl.load(end_ptr + key, mask=key < keys, other=0) if DOCUMENTS else tl.zeros_like(key) + keys
    if WINDOW:
        begin = tl.load(begin_ptr + key, mask=key < keys, other=0) if DOCUMENTS else tl.zeros_like(key)
        left = begin + (key - begin) // block * block + size
        end = tl.where(key < begin + sinks, end, tl.minimum(end, left))
    return end


@triton.jit
def _sum_over_queries(
    grad_first, grad_rest, grad_v, k_first, k_rest, v, first, q_ptr, grad_ptr, lse_ptr, delta_ptr, begin_ptr, end_ptr,
    q_token, grad_token, bounds, tokens, keys, q_width, v_width, scale, size, sinks, block, FIRST: tl.constexpr,
    REST: tl.constexpr, VALUE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, WHOLE: tl.constexpr,
    DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    low, open, shut, high = bounds
    for place in range(low if MASKED else open, high - (shut - open) if MASKED else shut, BLOCK_T):
        start = (place + shut - open if place >= open else place) if MASKED else place
        token = start + tl.arange(0, BLOCK_T)
        q_first = _tile(q_ptr, start, q_token, tokens, q_width, BLOCK_T, FIRST, MASKED, WHOLE)
        q_rest = _tile(q_ptr + FIRST, start, q_token, tokens, q_width - FIRST, BLOCK_T, REST, MASKED, WHOLE)
        lse = _vector(lse_ptr + token, token, tokens, MASKED)
        scores = tl.dot(k_first, tl.trans(q_first), input_precision="ieee")
        scores = tl.dot(k_rest, tl.trans(q_rest), scores, input_precision="ieee") * (scale * LOG2_E)
        weights = tl.exp2(scores - lse[None, :])
        if MASKED:
            key, query = first + tl.arange(0, BLOCK_S), token + (keys - tokens)
            seen = key[:, None] <= query[None, :]
            if DOCUMENTS or WINDOW:
                end = _end(begin_ptr, end_ptr, key, keys, size, sinks, block, DOCUMENTS, WINDOW)
                seen &= query[None, :] < end[:, None]
            weights = tl.where(seen, weights, 0.0)
        grad = _tile(grad_ptr, start, grad_token, tokens, v_width, BLOCK_T, VALUE, MASKED, WHOLE)
        grad_v = tl.dot(weights.to(grad.dtype), grad, grad_v, input_precision="ieee")
        moved = tl.dot(v, tl.trans(grad), input_precision="ieee")
        delta = _vector(delta_ptr + token, token, tokens, MASKED)
        slope = (weights * (moved - delta[None, :])).to(q_first.dtype)
        grad_first = tl.dot(slope, q_first, grad_first, input_precision="ieee")
        grad_rest = tl.dot(slope, q_rest, grad_rest, input_precision="ieee")
    return grad_first, grad_rest, grad_v


@triton.jit
def keys_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, grad_k_ptr, grad_v_ptr, begin_ptr, end_ptr, tokens, keys, heads,
    q_width, v_width, scale, size, sinks, block, q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token,
    v_head, FIRST: tl.constexpr, REST: tl.constexpr, VALUE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr, WHOLE: tl.constexpr, DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    start, batch, head = _program(keys, heads, BLOCK_S, False)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    grad_ptr += (batch * tokens * heads + head) * v_width
    lse_ptr += (batch * heads + head) * tokens
    delta_ptr += (batch * heads + head) * tokens
    begin_ptr += batch * keys
    end_ptr += batch * keys
    k_first = _tile(k_ptr, start, k_token, keys, q_width, BLOCK_S, FIRST, True, WHOLE)
    k_rest = _tile(k_ptr + FIRST, start, k_token, keys, q_width - FIRST, BLOCK_S, REST, True, WHOLE)
    v = _tile(v_ptr, start, v_token, keys, v_width, BLOCK_S, VALUE, True, WHOLE)
    grad_first = tl.zeros((BLOCK_S, FIRST), dtype=tl.float32)
    grad_rest = tl.zeros((BLOCK_S, REST), dtype=tl.float32)
    grad_v = tl.zeros((BLOCK_S, VALUE), dtype=tl.float32)
    # Query indices: below `open` some are before the last key, from `shut` on some are in another document.
    before = keys - tokens
    last = tl.minimum(start + BLOCK_S, keys) - 1
    if DOCUMENTS:
        high, shut = tl.load(end_ptr + last), tl.load(end_ptr + start) // BLOCK_T * BLOCK_T
    else:
        high, shut = tokens, tokens // BLOCK_T * BLOCK_T
    if WINDOW:
        key = start + tl.arange(0, BLOCK_S)
        end = _end(begin_ptr, end_ptr, key, keys, size, sinks, block, DOCUMENTS, WINDOW)
        high = tl.maximum(tl.max(tl.where(key < keys, end, 0), 0) - before, 0)
        shut = tl.maximum(tl.min(tl.where(key < keys, end, keys), 0) - before, 0) // BLOCK_T * BLOCK_T
    low = tl.maximum(start - before, 0) // BLOCK_T * BLOCK_T
    open = tl.minimum(tl.cdiv(tl.maximum(last - before, 0), BLOCK_T), tl.cdiv(high, BLOCK_T)) * BLOCK_T
    bounds = (low, open, tl.maximum(open, shut), high)
    grad_first, grad_rest, grad_v = _sum_over_queries(
        grad_first, grad_rest, grad_v, k_first, k_rest, v, start, q_ptr, grad_ptr, lse_ptr, delta_ptr, begin_ptr,
        end_ptr, q_token, heads * v_width, bounds, tokens, keys, q_width, v_width, scale, size, sinks, block, FIRST,
        REST, VALUE, BLOCK_T, BLOCK_S, WHOLE, DOCUMENTS, WINDOW, False,
    )  # fmt: skip
    grad_first, grad_rest, grad_v = _sum_over_queries(
        grad_first, grad_rest, grad_v, k_first, k_rest, v, start, q_ptr, grad_ptr, lse_ptr, delta_ptr, begin_ptr,
        end_ptr, q_token, heads * v_width, bounds, tokens, keys, q_width, v_width, scale, size, sinks, block, FIRST,
        REST, VALUE, BLOCK_T, BLOCK_S, WHOLE, DOCUMENTS, WINDOW, True,
    )  # fmt: skip
    grad_k_ptr += (batch * keys * heads + head) * q_width
    grad_v_ptr += (batch * keys * heads + head) * v_width
    _store_tile(grad_k_ptr, grad_first * scale, start, heads * q_width, keys, q_width, BLOCK_S, FIRST)
    _store_tile(grad_k_ptr + FIRST, grad_rest * scale, start, heads * q_width, keys, q_width - FIRST, BLOCK_S, REST)
    _store_tile(grad_v_ptr, grad_v, start, heads * v_width, keys, v_width, BLOCK_S, VALUE)


@triton.jit
def _sum_over_keys(
    grad_first, grad_rest, q_first, q_rest, grad, lse, delta, query, begin, lowest, sinks, k_ptr, v_ptr, k_token,
    v_token, bounds, keys, q_width, v_width, scale, FIRST: tl.constexpr, REST: tl.constexpr, VALUE: tl.constexpr,
    BLOCK_S: tl.constexpr, WHOLE: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    low, open, shut, high = bounds
    for place in range(low if MASKED else open, high - (shut - open) if MASKED else shut, BLOCK_S):
        start = (place + shut - open if place >= open else place) if MASKED else place
        k_first = _tile(k_ptr, start, k_token, keys, q_width, BLOCK_S, FIRST, MASKED, WHOLE)
        k_rest = _tile(k_ptr + FIRST, start, k_token, keys, q_width - FIRST, BLOCK_S, REST, MASKED, WHOLE)
        v = _tile(v_ptr, start, v_token, keys, v_width, BLOCK_S, VALUE, MASKED, WHOLE)
        scores = tl.dot(q_first, tl.trans(k_first), input_precision="ieee")
        scores = tl.dot(q_rest, tl.trans(k_rest), scores, input_precision="ieee") * (scale * LOG2_E)
        weights = tl.exp2(scores - lse[:, None])
        if MASKED:
            key = start + tl.arange(0, BLOCK_S)
            weights = tl.where(_seen(key, query, begin, lowest, sinks, WINDOW), weights, 0.0)
        moved = tl.dot(grad, tl.trans(v), input_precision="ieee") - delta[:, None]
        slope = (weights * moved).to(k_first.dtype)
        grad_first = tl.dot(slope, k_first, grad_first, input_precision="ieee")
        grad_rest = tl.dot(slope, k_rest, grad_rest, input_precision="ieee")
    return grad_first, grad_rest


@triton.jit
def queries_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, grad_q_ptr, begin_ptr, tokens, keys, heads, q_width, v_width,
    scale, size, sinks, block, q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    FIRST: tl.constexpr, REST: tl.constexpr, VALUE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    WHOLE: tl.constexpr, DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    start, batch, head = _program(tokens, heads, BLOCK_T, True)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    grad_ptr += (batch * tokens * heads + head) * v_width
    begin_ptr += batch * tokens
    token = start + tl.arange(0, BLOCK_T)
    query = token + (keys - tokens)
    at = (batch * heads + head) * tokens + token
    lse = tl.load(lse_ptr + at, mask=token < tokens, other=0.0)
    delta = tl.load(delta_ptr + at, mask=token < tokens, other=0.0)
    begin = tl.load(begin_ptr + token, mask=token < tokens, other=0) if DOCUMENTS else tl.zeros_like(token)
    q_first = _tile(q_ptr, start, q_token, tokens, q_width, BLOCK_T, FIRST, True, WHOLE)
    q_rest = _tile(q_ptr + FIRST, start, q_token, tokens, q_width - FIRST, BLOCK_T, REST, True, WHOLE)
    grad = _tile(grad_ptr, start, heads * v_width, tokens, v_width, BLOCK_T, VALUE, True, WHOLE)
    grad_first = tl.zeros((BLOCK_T, FIRST), dtype=tl.float32)
    grad_rest = tl.zeros((BLOCK_T, REST), dtype=tl.float32)
    lowest = _lowest(query, begin, size, block, WINDOW)
    bounds = _key_bounds(begin_ptr, start, tokens, keys, size, block, BLOCK_T, BLOCK_S, DOCUMENTS, WINDOW)
    grad_first, grad_rest = _sum_over_keys(
        grad_first, grad_rest, q_first, q_rest, grad, lse, delta, query, begin, lowest, sinks, k_ptr, v_ptr, k_token,
        v_token, bounds, keys, q_width, v_width, scale, FIRST, REST, VALUE, BLOCK_S, WHOLE, WINDOW, False,
    )  # fmt: skip
    grad_first, grad_rest = _sum_over_keys(
        grad_first, grad_rest, q_first, q_rest, grad, lse, delta, query, begin, lowest, sinks, k_ptr, v_ptr, k_token,
        v_token, bounds, keys, q_width, v_width, scale, FIRST, REST, VALUE, BLOCK_S, WHOLE, WINDOW, True,
    )  # fmt: skip
    if WINDOW:
        of_sinks = _sink_bounds(begin_ptr, start, bounds[0], sinks, BLOCK_S, DOCUMENTS)
        grad_first, grad_rest = _sum_over_keys(
            grad_first, grad_rest, q_first, q_rest, grad, lse, delta, query, begin, lowest, sinks, k_ptr, v_ptr,
            k_token, v_token, of_sinks, keys, q_width, v_width, scale, FIRST, REST, VALUE, BLOCK_S, WHOLE, WINDOW, True,
        )  # fmt: skip
    grad_q_ptr += (batch * tokens * heads + head) * q_width
    _store_tile(grad_q_ptr, grad_first * scale, start, heads * q_width, tokens, q_width, BLOCK_T, FIRST)
    _store_tile(grad_q_ptr + FIRST, grad_rest * scale, start, heads * q_width, tokens, q_width - FIRST, BLOCK_T, REST)
