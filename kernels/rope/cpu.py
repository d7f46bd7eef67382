"""Rotary position embedding as one complex multiplication, two and a half times as fast as slices on a processor."""

import torch

from longcat.kernels.precision import accumulation_dtype

# The attention modules of one forward pass share their angles: (angles, their version, dtype, turns) of the last call.
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
    """The same by fewer calls, which have no gradient: `turn_T1P` are those of `turns` in the precision of `x_BTHR`."""
    return (_paired(x_BTHR).view(turn_T1P.dtype) * turn_T1P).view(x_BTHR.dtype)


def turns(angles_TP: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """The unit complex numbers of the angles, [T, 1, P]."""
    global _last  # noqa: PLW0603
    last = _last
    # Tensors of inference mode count no changes; there the angles must not be written over, and nobody does.
    version = 0 if angles_TP.is_inference() else angles_TP._version
    if last is not None and last[0] is angles_TP and last[1:3] == (version, wide):
        return last[3]
    turn_T1P = torch.complex(angles_TP.cos().to(wide), angles_TP.sin().to(wide)).unsqueeze(1)
    _last = angles_TP, version, wide, turn_T1P
    return turn_T1P


def _paired(x_BTHR: torch.Tensor) -> torch.Tensor:
    """A complex view needs pairs that start at even places of the storage."""
    *outer, last = x_BTHR.stride()
    aligned = last == 1 and x_BTHR.storage_offset() % 2 == 0 and all(stride % 2 == 0 for stride in outer)
    return x_BTHR if aligned else x_BTHR.clone(memory_format=torch.contiguous_format)
