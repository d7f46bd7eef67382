"""Kernels of grouped products over tiles of rows of one expert, and functions shared with dense kernels.

Tensor cores of sm_90 take 64 rows at a time. If experts have few rows, SWAP multiplies the transposes instead: the many
columns of the weights become the rows, and the few rows become 16 or 32 columns.

Names: M rows, N columns and K the summed dimension of a product.
"""

import triton
import triton.language as tl

# The interpreter represents bfloat16 as 16-bit integers and would multiply those.
UPCAST = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def tile_of(tiles, columns, BLOCK_N: tl.constexpr):
    """(tile of rows, tile of columns) of a program; eight tiles of rows are grouped to share weight reads."""
    program = tl.program_id(0)
    column_tiles = tl.cdiv(columns, BLOCK_N)
    group = program // (8 * column_tiles)
    height = tl.minimum(tiles - group * 8, 8)
    within = program % (8 * column_tiles)
    return group * 8 + within % height, within // height


@triton.jit
def zero_tile(SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    return tl.zeros((BLOCK_N if SWAP else BLOCK_M, BLOCK_M if SWAP else BLOCK_N), dtype=tl.float32)


@triton.jit
def add_product(a, b, total, SWAP: tl.constexpr):
    """`total + a @ b`; with SWAP, `total` and the result are transposed."""
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    if SWAP:
        total = tl.dot(tl.trans(b), tl.trans(a), total, input_precision="ieee")
    else:
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def upright(total, SWAP: tl.constexpr):
    """`total` as [M, N], with and without SWAP."""
    return tl.trans(total) if SWAP else total


@triton.jit
def gate_and_up(
    x_ptrs, gate_ptrs, up_ptrs, in_m, in_n, width,
    SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Both products [M, N] with one read of the rows; pointers [M, 1] and [1, N] are to the first of `width` values."""
    k = tl.arange(0, BLOCK_K)
    gate, up = zero_tile(SWAP, BLOCK_M, BLOCK_N), zero_tile(SWAP, BLOCK_M, BLOCK_N)
    for start in range(0, width, BLOCK_K):
        in_k = k < width - start
        x = tl.load(x_ptrs + start + k[None, :], mask=in_m & in_k[None, :], other=0.0)
        weight = tl.load(gate_ptrs + start + k[:, None], mask=in_k[:, None] & in_n, other=0.0)
        gate = add_product(x, weight, gate, SWAP)
        weight = tl.load(up_ptrs + start + k[:, None], mask=in_k[:, None] & in_n, other=0.0)
        up = add_product(x, weight, up, SWAP)
    return upright(gate, SWAP), upright(up, SWAP)


@triton.jit
def store_active(gate, up, hidden_ptr, active_ptr, m, n, inside, inner, KEEP: tl.constexpr):
    """Store `silu(gate) * up`; with KEEP, also gate and up, concatenated in a row of 2 F values."""
    # Rounded before the multiplication, because the backward recomputes it from the stored values.
    dtype = active_ptr.dtype.element_ty
    gate, up = gate.to(dtype), up.to(dtype)
    if KEEP:
        tl.store(hidden_ptr + m * 2 * inner + n, gate, mask=inside)
        tl.store(hidden_ptr + m * 2 * inner + inner + n, up, mask=inside)
    gate = gate.to(tl.float32)
    active = gate / (1.0 + tl.exp(-gate)) * up.to(tl.float32)
    tl.store(active_ptr + m * inner + n, active.to(dtype), mask=inside)


@triton.jit
def swiglu_backward(grad, pointers, m, n, inside, inner):
    """Store the gradients of gate and up, concatenated, and the recomputed product `silu(gate) * up`."""
    hidden_ptr, grad_hidden_ptr, active_ptr = pointers
    dtype = active_ptr.dtype.element_ty
    gate_at = m * 2 * inner + n
    gate = tl.load(hidden_ptr + gate_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(hidden_ptr + gate_at + inner, mask=inside, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    silu = gate * sigmoid
    tl.store(active_ptr + m * inner + n, (silu * up).to(dtype), mask=inside)
    tl.store(grad_hidden_ptr + gate_at + inner, (grad * silu).to(dtype), mask=inside)
    grad_gate = grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(grad_hidden_ptr + gate_at, grad_gate.to(dtype), mask=inside)


@triton.jit
def gate_up_kernel(
    rows_ptr, gate_up_ptr, hidden_ptr, active_ptr, expert_ptr, row_ptr, ends_ptr, tiles, experts, width, inner,
    KEEP: tl.constexpr, SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile, column_tile = tile_of(tiles, inner, BLOCK_N)
    expert = tl.load(expert_ptr + tile).to(tl.int64)
    if expert < experts:
        m = tl.load(row_ptr + tile).to(tl.int64) + tl.arange(0, BLOCK_M)[:, None]
        n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        in_m, in_n = m < tl.load(ends_ptr + expert), n < inner
        gate_ptrs = gate_up_ptr + expert * 2 * inner * width + n * width
        gate, up = gate_and_up(
            rows_ptr + m * width, gate_ptrs, gate_ptrs + inner * width, in_m, in_n, width,
            SWAP, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        store_active(gate, up, hidden_ptr, active_ptr, m, n, in_m & in_n, inner, KEEP)


@triton.jit
def product_kernel(
    a_ptr, b_ptr, out_ptr, expert_ptr, row_ptr, ends_ptr, tiles, experts, summed, columns,
    TRANSPOSED: tl.constexpr, SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`out[r] = a[r] @ b[e]` with b[e] [K, N], or stored transposed, [N, K], if TRANSPOSED."""
    tile, column_tile = tile_of(tiles, columns, BLOCK_N)
    expert = tl.load(expert_ptr + tile).to(tl.int64)
    if expert < experts:
        m = tl.load(row_ptr + tile).to(tl.int64) + tl.arange(0, BLOCK_M)[:, None]
        n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        in_m, in_n = m < tl.load(ends_ptr + expert), n < columns
        total = product(
            a_ptr + m * summed, b_ptr + expert * summed * columns, in_m, n, in_n, summed, columns,
            TRANSPOSED, SWAP, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        tl.store(out_ptr + m * columns + n, total.to(out_ptr.dtype.element_ty), mask=in_m & in_n)


@triton.jit
def product(
    a_ptrs, b_ptr, in_m, n, in_n, summed, columns,
    TRANSPOSED: tl.constexpr, SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, BLOCK_K)
    if TRANSPOSED:
        b_ptrs, b_step = b_ptr + n * summed + k[:, None], 1
    else:
        b_ptrs, b_step = b_ptr + k[:, None] * columns + n, columns
    total = zero_tile(SWAP, BLOCK_M, BLOCK_N)
    for start in range(0, summed, BLOCK_K):
        in_k = k < summed - start
        a = tl.load(a_ptrs + start + k[None, :], mask=in_m & in_k[None, :], other=0.0)
        b = tl.load(b_ptrs + start * b_step, mask=in_k[:, None] & in_n, other=0.0)
        total = add_product(a, b, total, SWAP)
    return upright(total, SWAP)


@triton.jit
def grad_hidden_kernel(
    grad_ptr, down_ptr, hidden_ptr, grad_hidden_ptr, active_ptr, expert_ptr, row_ptr, ends_ptr, tiles, experts, width,
    inner, SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradient of gate and up, and the recomputed product of both, which the gradient of the down projection needs."""
    tile, column_tile = tile_of(tiles, inner, BLOCK_N)
    expert = tl.load(expert_ptr + tile).to(tl.int64)
    if expert < experts:
        m = tl.load(row_ptr + tile).to(tl.int64) + tl.arange(0, BLOCK_M)[:, None]
        n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        in_m, in_n = m < tl.load(ends_ptr + expert), n < inner
        grad = product(
            grad_ptr + m * width, down_ptr + expert * width * inner, in_m, n, in_n, width, inner,
            False, SWAP, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        # In two halves, because the registers cannot hold all values below for a whole tile.
        left, right = tl.split(tl.permute(tl.reshape(grad, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N // 2)[None, :]
        pointers = (hidden_ptr, grad_hidden_ptr, active_ptr)
        swiglu_backward(left, pointers, m, n, in_m & (n < inner), inner)
        n += BLOCK_N // 2
        swiglu_backward(right, pointers, m, n, in_m & (n < inner), inner)


@triton.jit
def grad_weight_kernel(
    a_ptr, b_ptr, out_ptr, ends_ptr, height, columns,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`out[e] = sum over the rows r of e: outer(a[r], b[r])`, [M, N]; zeros for an expert without rows."""
    expert = tl.program_id(1).to(tl.int64)
    tile, column_tile = tile_of(tl.cdiv(height, BLOCK_M), columns, BLOCK_N)
    end = tl.load(ends_ptr + expert)
    first = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < height, n < columns
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for row in range(first, end, BLOCK_K):
        k = row + tl.arange(0, BLOCK_K).to(tl.int64)
        a = tl.load(a_ptr + k[None, :] * height + m[:, None], mask=in_m[:, None] & (k < end)[None, :], other=0.0)
        b = tl.load(b_ptr + k[:, None] * columns + n[None, :], mask=(k < end)[:, None] & in_n[None, :], other=0.0)
        total = add_product(a, b, total, False)
    place = expert * height * columns + m[:, None] * columns + n[None, :]
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


@triton.jit
def schedule_kernel(
    ends_ptr, expert_ptr, row_ptr, experts, tiles, ROWS: tl.constexpr, EXPERTS: tl.constexpr, TILES: tl.constexpr
):
    """The expert and the first row of TILES tiles of ROWS rows; tiles beyond the last get the expert `experts`."""
    n = tl.arange(0, EXPERTS)
    known = n < experts
    first = tl.load(ends_ptr + n - 1, mask=known & (n > 0), other=0)
    count = tl.load(ends_ptr + n, mask=known, other=0) - first
    own_tiles = tl.where(known, tl.cdiv(count, ROWS), 0)
    end = tl.cumsum(own_tiles, 0)
    tile = tl.program_id(0) * TILES + tl.arange(0, TILES)
    expert = tl.sum((known[None, :] & (end[None, :] <= tile[:, None])).to(tl.int32), 1)
    # Offset such that the first row of a tile is origin + tile * ROWS.
    origin = tl.sum(tl.where(n[None, :] == expert[:, None], (first - (end - own_tiles) * ROWS)[None, :], 0), 1)
    tl.store(expert_ptr + tile, expert, mask=tile < tiles)
    tl.store(row_ptr + tile, origin + tile * ROWS, mask=tile < tiles)
