"""Attention of a few new tokens a sequence over latents in pages (FlashMLA's contract; split keys: FlashDecoding).

Projections are absorbed by the caller: `q = [w_key^T q_nope | q_rope]` and the values are `w_value o`, so that what
this operation gives a sequence does not depend on how a matrix product treats the others.

Names: B sequences, T new tokens of each, H heads, P pages, L positions of a page, M pages a sequence may have,
C latent width, E width of what is cached, the latent and then the rotary key.
"""

import torch

from longcat.kernels.mla_paged_decode import reference
from longcat.kernels.select import KernelError, deferred, select

VERSIONS = {
    "reference": reference.mla_paged_decode,
    "triton": deferred("longcat.kernels.mla_paged_decode.triton", "mla_paged_decode"),
}


def mla_paged_decode(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    page_table_BM: torch.Tensor,
    lengths_B: torch.Tensor,
    latent_width: int,
    scale: float,
) -> torch.Tensor:
    """`softmax(scale * q e^T) e[:latent_width]` over the cached positions e of each sequence, causal. Returns o_BTHC.

    Position n of sequence b is `pages[page_table[b, n // L], n % L]`, for n below `lengths[b]`, which counts the T new
    tokens; both tables are int32. Query t sees positions up to lengths[b] - T + t, and gives zeros where there are
    none. Places of the table and of pages beyond a length are never read. The result has the dtype of the queries and
    no gradient. The bits of a sequence do not depend on the others, nor on which pages hold it.

    Raises:
        KernelError: shapes or dtypes that do not belong together; on a processor also a length or a page out of range,
            which elsewhere the caller must rule out.
    """
    _check_shapes(q_BTHE, pages_PLE, page_table_BM, lengths_B, latent_width)
    if lengths_B.device.type == "cpu":
        _check_values(pages_PLE, page_table_BM, lengths_B)
    version = select("mla_paged_decode", VERSIONS, q_BTHE.device)
    with torch.no_grad():
        return version(q_BTHE, pages_PLE, page_table_BM, lengths_B, latent_width, scale)


def _check_shapes(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    page_table_BM: torch.Tensor,
    lengths_B: torch.Tensor,
    latent_width: int,
) -> None:
    batch, width = q_BTHE.shape[0], q_BTHE.shape[-1]
    if pages_PLE.shape[-1] != width or not 0 < latent_width <= width:
        raise KernelError(
            f"mla_paged_decode: queries of width {width} need pages of that width and a latent width up to it, "
            f"got {pages_PLE.shape[-1]} and {latent_width}"
        )
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
