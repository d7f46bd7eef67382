"""Batch-invariant mode: a text gets the same bits alone, in a batch, padded, and in chunks through a cache.

Matrix libraries order sums by the shape of the whole product, and vector loops compute the last few values of a tensor
with other instructions. So a row's last bit depends on the number of rows. Inside `batch_invariant()` every torch
operation prone to this is computed in zero-padded tiles of one shape; a value's position in its tile does not affect
it, which is checked for products before the first one.

    product      tiles of ROWS x DEPTH by DEPTH x COLUMNS, summed along the depth in order
    sum, mean    ROWS rows at a time;   softmax: exp(x - max) over its sum, DEPTH values at a time, in order
    functions    full vectors: a multiple of LANES values, fewer than torch splits over threads

All other operations of the model either move values or round each one correctly. Any other operation is rejected.
Costs: see docs/model.md. The deterministic mode of the inference engine is cheaper, and is in `model.tiles`.

Names: M, K, N the sizes of a product; X its batch; R rows, S the length of a row.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.kernels.precision import accumulation_dtype
from longcat.kernels.select import ENVIRONMENT_VARIABLE
from longcat.model.errors import ModelError

ROWS, DEPTH, COLUMNS = 16, 256, 256
LANES, FUNCTION_VALUES = 64, 1 << 14


@contextmanager
def batch_invariant() -> Iterator[None]:
    """Context in which a text's bits do not depend on its batch, padding or chunks.

    They are fixed per device, torch version and number of threads. Runs the reference implementation of every operation
    (sets `LONGCAT_KERNELS=reference`) and applies to the whole process: use it from one thread.

    Raises:
        ModelError: an operation without a batch-invariant form, such as in a backward pass, or a matrix library whose
            products depend on the position of a row.
    """
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ[ENVIRONMENT_VARIABLE] = "reference"
    try:
        with _BatchInvariant():
            yield
    finally:
        if before is None:
            del os.environ[ENVIRONMENT_VARIABLE]
        else:
            os.environ[ENVIRONMENT_VARIABLE] = before


class _BatchInvariant(TorchDispatchMode):
    """Replaces the operations in `FORMS`, passes those in `EXACT` and integer operations, and rejects others."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FORMS:
            return FORMS[func](*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in EXACT or not _has_floats([*args, *kwargs.values()]):
            return func(*args, **kwargs)
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise ModelError(f"the operation {func} has no batch-invariant form; call it outside batch_invariant()")
        return result


def _has_floats(values: Any) -> bool:
    return any(
        value.is_floating_point() or value.is_complex() if isinstance(value, torch.Tensor) else _has_floats(value)
        for value in values
        if isinstance(value, torch.Tensor | list | tuple)
    )


def product(a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    """`a_MK @ b_KN`, every value depends only on its row, column and K; half precision is accumulated in float32."""
    rows, columns = a_MK.shape[0], b_KN.shape[1]
    if 0 in (rows, *b_KN.shape):
        return a_MK.new_zeros(rows, columns)
    wide = accumulation_dtype(a_MK.dtype)
    _check_tiles(wide, a_MK.device, torch.get_num_threads())
    a_tiles = _tiles(a_MK.to(wide), ROWS, DEPTH)
    pieces = []
    for column in range(0, columns, COLUMNS):
        strip_KN = b_KN[:, column : column + COLUMNS].to(wide)
        b_tiles = [_fill(tile, DEPTH, COLUMNS) for tile in strip_KN.split(DEPTH)]
        out_tiles = a_MK.new_zeros(len(a_tiles), ROWS, COLUMNS, dtype=wide)
        for out, along in zip(out_tiles.unbind(), a_tiles, strict=True):
            for a, b in zip(along, b_tiles, strict=True):
                out.addmm_(a, b)
        pieces.append(out_tiles.flatten(0, 1)[:rows])
    return torch.cat(pieces, dim=1)[:, :columns].to(a_MK.dtype)


def products(a_XMK: torch.Tensor, b_XKN: torch.Tensor) -> torch.Tensor:
    """`a_XMK @ b_XKN`, one product at a time."""
    # Copies with the layout of a single matrix: strides must not depend on the batch either.
    pairs = zip(a_XMK.unbind(), b_XKN.contiguous().unbind(), strict=True)
    shape = (a_XMK.shape[0], a_XMK.shape[1], b_XKN.shape[2])
    return torch.stack([product(a, b) for a, b in pairs]) if shape[0] else a_XMK.new_zeros(shape)


def _tiles(x_RS: torch.Tensor, rows: int, width: int) -> list[tuple[torch.Tensor, ...]]:
    """Contiguous zero-padded tiles of `x_RS`, as rows of tiles."""
    full = _fill(x_RS, -(-x_RS.shape[0] // rows) * rows, -(-x_RS.shape[1] // width) * width)
    tiles = full.unflatten(1, (-1, width)).unflatten(0, (-1, rows)).transpose(1, 2).contiguous()
    return [along.unbind() for along in tiles.unbind()]


def _fill(x_RS: torch.Tensor, rows: int, width: int, value: float = 0.0) -> torch.Tensor:
    missing = (0, width - x_RS.shape[1], 0, rows - x_RS.shape[0])
    return F.pad(x_RS, missing, value=value) if any(missing) else x_RS


@lru_cache
def _check_tiles(dtype: torch.dtype, device: torch.device, threads: int) -> None:
    """Multiply equal rows by equal columns: equal results show that the position in a tile does not matter."""
    generator = torch.Generator().manual_seed(0)
    row, column, start = (torch.randn(*shape, generator=generator) for shape in ((1, DEPTH), (DEPTH, 1), (1, 1)))
    a = row.expand(ROWS, -1).to(device, dtype).contiguous()
    b = column.expand(-1, COLUMNS).to(device, dtype)
    for b_layout in (b.contiguous(), b.t().contiguous().t()):
        out = start.expand(ROWS, COLUMNS).to(device, dtype).contiguous().addmm_(a, b_layout)
        if not (out == out[0, 0]).all():
            raise ModelError(
                f"products of {dtype} on {device} depend on the position of a row; no batch-invariant form"
            )


def _rowwise(func: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Reduce over dimensions after the first one, ROWS rows at a time."""

    def form(x: torch.Tensor, dim: list[int] | None, keepdim: bool = False, **kwargs: Any) -> torch.Tensor:
        if not x.is_floating_point():
            return func(x, dim, keepdim, **kwargs)
        dims = sorted(d % x.dim() for d in dim or range(x.dim()))
        if dims[0] == 0:
            raise ModelError("a sum over the rows of a batch depends on the batch; call it outside batch_invariant()")
        first = dims[0]
        rows = x.contiguous().flatten(0, first - 1)
        filled = F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, -rows.shape[0] % ROWS))
        inner = [d - first + 1 for d in dims]
        reduced = torch.cat([func(tile, inner, keepdim, **kwargs) for tile in filled.split(ROWS)])
        return reduced[: rows.shape[0]].unflatten(0, x.shape[:first])

    return form


def _whole_vectors(func: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Apply an elementwise function to full vectors, since remainders are computed with other instructions."""

    def form(x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten()
        filled = F.pad(flat, (0, -flat.shape[0] % LANES))
        result = torch.cat([func(piece) for piece in filled.split(FUNCTION_VALUES)])
        return result[: flat.shape[0]].view(x.shape)

    return form


def _power(base: Any, exponent: Any) -> torch.Tensor:
    """Squares become products; rotary frequencies, a scalar to many powers, are the same in every pass."""
    if isinstance(base, torch.Tensor) and exponent != 2:
        raise ModelError("only a square has a batch-invariant form among the powers")
    return torch.pow(base, exponent)


aten = torch.ops.aten
_exponential, _logarithm = _whole_vectors(aten.exp.default), _whole_vectors(aten.log.default)
_sum = _rowwise(aten.sum.dim_IntList)


def softmax(x: torch.Tensor, dim: int, half_to_float: bool = False) -> torch.Tensor:
    """Softmax over the last dimension; trailing values of minus infinity change nothing."""
    _, exponential, sum_1 = _softmax_parts(x, dim)
    return (exponential / sum_1).to(x.dtype)


def log_softmax(x: torch.Tensor, dim: int, half_to_float: bool = False) -> torch.Tensor:
    """Logarithm of `softmax`."""
    shifted, _, sum_1 = _softmax_parts(x, dim)
    return (shifted - _logarithm(sum_1)).to(x.dtype)


def _softmax_parts(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x - max, its exponential, and the sum of the exponential over the last dimension (keepdim)."""
    if dim % x.dim() != x.dim() - 1:
        raise ModelError("only a softmax over the last dimension has a batch-invariant form")
    wide = x.to(accumulation_dtype(x.dtype))
    shifted = wide - wide.amax(dim=-1, keepdim=True)
    exponential = _exponential(shifted)
    filled = F.pad(exponential, (0, -x.shape[-1] % DEPTH))
    sums = _sum(filled.unflatten(-1, (-1, DEPTH)), [-1]).unbind(-1)
    return shifted, exponential, reduce(torch.add, sums).unsqueeze(-1)


FORMS: dict[Any, Callable[..., torch.Tensor]] = {
    aten.mm.default: product,
    aten.bmm.default: products,
    aten._softmax.default: softmax,
    aten._log_softmax.default: log_softmax,
    aten.sum.dim_IntList: _sum,
    aten.mean.dim: _rowwise(aten.mean.dim),
    **dict.fromkeys((aten.pow.Tensor_Scalar, aten.pow.Scalar), _power),
    **{func: _whole_vectors(func) for func in (aten.silu.default, aten.rsqrt.default)},
    **{func: _whole_vectors(func) for func in (aten.sin.default, aten.cos.default)},
}

# Operations that only move or compare values, or round each result correctly.
EXACT = frozenset(
    {
        *("_unsafe_view", "alias", "detach", "expand", "permute", "select", "slice", "split", "split_with_sizes"),
        *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "new_empty", "empty_like", "new_zeros"),
        *("cat", "clone", "copy_", "embedding", "gather", "index", "index_select", "masked_fill", "scatter", "stack"),
        *("zeros_like", "where", "_local_scalar_dense", "promote_types", "amax", "argmax", "eq", "equal", "ge", "gt"),
        *("fill_", "index_copy_"),
        *("le", "lt", "ne", "sort", "_to_copy", "add", "div", "mul", "neg", "sub"),
    }
)
