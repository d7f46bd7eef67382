"""Rotary position embedding as one complex multiplication, two and a half times as fast as slices on a CPU."""

import torch

from longcat.kernels.precision import accumulation_dtype

# The attention modules of a forward pass share the angles: (angles, version, dtype, turns) of the last call.
_last: tuple[torch.Tensor, int, torch.dtype, torch.Tensor] | None = None


def rope(x_BTHR: torch.Tensor, angles_TP: torch.Tensor) -> torch.Tensor:
    """See `kernels.rope.rope`."""
    wide = accumulation_dtype(x_BTHR.dtype)
    turn_T1P = turns(angles_TP, wide)
    if not torch.is_grad_enabled() and x_BTHR.dtype == wide:
        return rotate(x_BTHR, turn_T1P)
    pairs_BTHP = torch.view_as_complex(_paired(x_BTHR.to(wide)).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs_BTHP * turn_T1P).flatten(-2).to(x_BTHR.dtype)


def rotate(x_BTHR: torch.Tensor, turn_T1P: torch.Tensor) -> torch.Tensor:
    """The same with fewer calls, without gradient: `turn_T1P` is the result of `turns` in the precision of `x_BTHR`."""
    return (_paired(x_BTHR).view(turn_T1P.dtype) * turn_T1P).view(x_BTHR.dtype)


def rotate_(x_THR: torch.Tensor, turn_T1P: torch.Tensor) -> None:
    """`rotate` in place."""
    if _is_paired(x_THR):
        x_THR.view(turn_T1P.dtype).mul_(turn_T1P)
    else:
        x_THR.copy_(rotate(x_THR, turn_T1P))


def turns(angles_TP: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """The unit complex numbers of the angles, [T, 1, P]."""
    global _last  # noqa: PLW0603
    last = _last
    # Inference tensors have no version counter; their angles must not be modified in place, and no caller does so.
    version = 0 if angles_TP.is_inference() else angles_TP._version
    if last is not None and last[0] is angles_TP and last[1:3] == (version, wide):
        return last[3]
    turn_T1P = torch.complex(angles_TP.cos().to(wide), angles_TP.sin().to(wide)).unsqueeze(1)
    _last = angles_TP, version, wide, turn_T1P
    return turn_T1P


def _paired(x_BTHR: torch.Tensor) -> torch.Tensor:
    return x_BTHR if _is_paired(x_BTHR) else x_BTHR.clone(memory_format=torch.contiguous_format)


def _is_paired(x_BTHR: torch.Tensor) -> bool:
    """A complex view needs pairs that start at even offsets of the storage."""
    *outer, last = x_BTHR.stride()
    return last == 1 and x_BTHR.storage_offset() % 2 == 0 and all(stride % 2 == 0 for stride in outer)
