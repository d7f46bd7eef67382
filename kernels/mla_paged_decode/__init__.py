"""Attention of a few new tokens per sequence over paged latents (interface of FlashMLA; split keys: FlashDecoding).

Projections are absorbed by the caller: `q = [w_key^T q_nope | q_rope]` and the values are `w_value o`, so that the
result for a sequence does not depend on how a matrix product rounds for the other sequences.

Names: B sequences, T new tokens per sequence, H heads, P pages, L positions per page, M maximum number of pages per
sequence, C latent width, E width of a cached position (latent, then rotary key).
"""

import torch

from longcat.kernels.mla_paged_decode import cpu, reference
from longcat.kernels.mla_paged_decode.sequences import SequencePages
from longcat.kernels.mla_paged_decode.splits import MOST
from longcat.kernels.opaque import opaque
from longcat.kernels.select import KernelError, deferred, select

__all__ = ["SequencePages", "mla_paged_decode"]

VERSIONS = {
    "reference": reference.mla_paged_decode,
    "cpu": cpu.mla_paged_decode,
    "triton": deferred("longcat.kernels.mla_paged_decode.triton", "mla_paged_decode"),
}


def mla_paged_decode(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    page_table_BM: torch.Tensor | SequencePages,
    lengths_B: torch.Tensor | None,
    latent_width: int,
    scale: float,
    splits: int | None = None,
) -> torch.Tensor:
    """`softmax(scale * q e^T) e[:latent_width]` over the cached positions e of each sequence, causal. Returns o_BTHC.

    Position n of sequence b is `pages[page_table[b, n // L], n % L]`, for n below `lengths[b]`, which counts the T new
    tokens; both tables are int32. A `SequencePages` in place of both, with `lengths_B` None, serves every layer of a
    step. Query t sees positions up to lengths[b] - T + t, and gives zeros if there are none.
    Entries of the table and positions of pages beyond a length are never read. The result has the dtype of the queries
    and no gradient.

    `splits` is the maximum number of parts into which a sequence is split on a GPU, according to its length; the
    default fills the GPU for these shapes (`splits.choose_splits`). The bits of a sequence do not depend on the content
    of the other sequences or on the pages that hold it, and, if `splits` is given, not on the number of sequences.
    Nothing waits for the device, and the shapes of allocations depend only on the shapes of the arguments, so the call
    can be captured in a CUDA graph.

    Raises:
        KernelError: shapes or dtypes that do not match, or `splits` out of range; on a CPU also a
            length or a page out of range, which the caller must exclude on other devices.
    """
    if splits is not None and not 1 <= splits <= MOST:
        raise KernelError(f"mla_paged_decode: splits must be from 1 to {MOST}, got {splits}")
    sequences = _sequences(q_BTHE, pages_PLE, page_table_BM, lengths_B, latent_width)
    if torch.compiler.is_compiling():
        return _NODE(q_BTHE, pages_PLE, sequences.table_BM, sequences.lengths_B, latent_width, scale, splits)
    version = select("mla_paged_decode", VERSIONS, q_BTHE.device)
    with torch.no_grad():
        return version(q_BTHE, pages_PLE, sequences, latent_width, scale, splits)


def _sequences(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    table: torch.Tensor | SequencePages,
    lengths_B: torch.Tensor | None,
    latent_width: int,
) -> SequencePages:
    """The sequences, checked as far as the host knows them."""
    if isinstance(table, SequencePages):
        _check_widths(q_BTHE, pages_PLE, latent_width)
        if len(table.lengths) != q_BTHE.shape[0] or table.page_size != pages_PLE.shape[1]:
            raise KernelError(
                f"mla_paged_decode: {len(table.lengths)} sequences in pages of {table.page_size} positions do not fit "
                f"{q_BTHE.shape[0]} sequences of queries and pages of {pages_PLE.shape[1]}"
            )
        if table.last_page >= pages_PLE.shape[0]:
            raise KernelError(f"mla_paged_decode: the page table names pages outside 0 to {pages_PLE.shape[0] - 1}")
        return table
    if lengths_B is None:
        raise KernelError("mla_paged_decode: a page table needs the lengths of the sequences")
    _check_shapes(q_BTHE, pages_PLE, table, lengths_B, latent_width)
    if lengths_B.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(pages_PLE, table, lengths_B)
    return SequencePages.from_tensors(table, lengths_B, pages_PLE.shape[1])


def _check_widths(q_BTHE: torch.Tensor, pages_PLE: torch.Tensor, latent_width: int) -> None:
    width = q_BTHE.shape[-1]
    if pages_PLE.shape[-1] != width or not 0 < latent_width <= width:
        raise KernelError(
            f"mla_paged_decode: queries of width {width} need pages of that width and a latent width up to it, "
            f"got {pages_PLE.shape[-1]} and {latent_width}"
        )


def _check_shapes(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    page_table_BM: torch.Tensor,
    lengths_B: torch.Tensor,
    latent_width: int,
) -> None:
    _check_widths(q_BTHE, pages_PLE, latent_width)
    batch = q_BTHE.shape[0]
    if page_table_BM.shape[0] != batch or lengths_B.shape != (batch,):
        raise KernelError(
            f"mla_paged_decode: {batch} sequences need as many rows of the page table and lengths, "
            f"got {tuple(page_table_BM.shape)} and {tuple(lengths_B.shape)}"
        )
    if page_table_BM.dtype != torch.int32 or lengths_B.dtype != torch.int32:
        raise KernelError(
            f"mla_paged_decode: page table and lengths must be int32, got {page_table_BM.dtype} and {lengths_B.dtype}"
        )


def _check_values(pages_PLE: torch.Tensor, page_table_BM: torch.Tensor, lengths_B: torch.Tensor) -> None:
    pages, page_size, _ = pages_PLE.shape
    capacity = page_table_BM.shape[1] * page_size
    if lengths_B.numel() and not 0 <= int(lengths_B.min()) <= int(lengths_B.max()) <= capacity:
        raise KernelError(f"mla_paged_decode: lengths must be from 0 to {capacity}, got {lengths_B.tolist()}")
    starts_M = torch.arange(page_table_BM.shape[1]) * page_size
    used = page_table_BM[starts_M < lengths_B.unsqueeze(1)]
    if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < pages:
        raise KernelError(f"mla_paged_decode: the page table names pages outside 0 to {pages - 1}")


_NODE = opaque(
    "mla_paged_decode",
    "(Tensor q, Tensor pages, Tensor page_table, Tensor lengths, int latent_width, float scale, int? splits) -> Tensor",
    mla_paged_decode,
    lambda q, pages, page_table, lengths, latent_width, scale, splits: q.new_empty(*q.shape[:-1], latent_width),
    differentiable=(),
)
