"""Decoding from a cache of fixed size: lengths per row, and what must not change between steps."""

import pytest
import torch

from longcat.kernels.mla_decode import VERSIONS, mla_decode
from longcat.kernels.select import KernelError
from tests.kernels.device import on_the_processor
from tests.kernels.test_mla_paged_decode import recorded_launches

HEADS, NOPE, ROTARY, VALUE, LATENT = 2, 5, 4, 3, 7
every_version = pytest.mark.parametrize("version", sorted(VERSIONS))


def tensors(batch: int, tokens: int, room: int) -> list[torch.Tensor]:
    """Queries, a cache of `room` positions, matrices."""
    torch.manual_seed(0)
    shapes = [
        (batch, tokens, HEADS, NOPE),
        (batch, tokens, HEADS, ROTARY),
        (batch, room, LATENT),
        (batch, room, ROTARY),
    ]
    return [torch.randn(*shape) for shape in (*shapes, (HEADS, NOPE, LATENT), (HEADS, VALUE, LATENT))]


@every_version
def test_each_row_has_its_own_length(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", f"mla_decode={version}")
    q_nope, q_rope, latent, k_rope, *matrices = tensors(4, 2, 130)
    lengths = [130, 2, 1, 0]
    for row, length in enumerate(lengths):
        latent[row, length:], k_rope[row, length:] = torch.nan, torch.nan
    together = mla_decode(q_nope, q_rope, latent, k_rope, *matrices, 0.3, torch.tensor(lengths, dtype=torch.int32))
    for row, length in ((0, 130), (1, 2)):
        own = (x[row : row + 1] for x in (q_nope, q_rope, latent[:, :length], k_rope[:, :length]))
        torch.testing.assert_close(together[row], VERSIONS["reference"](*own, *matrices, 0.3)[0], rtol=1e-5, atol=1e-6)
    own = (x[2:3] for x in (q_nope[:, 1:], q_rope[:, 1:], latent[:, :1], k_rope[:, :1]))
    torch.testing.assert_close(together[2, 1:], VERSIONS["reference"](*own, *matrices, 0.3)[0], rtol=1e-5, atol=1e-6)
    assert not together[2, 0].any()
    assert not together[3].any()


@on_the_processor
def test_steps_on_a_growing_view_of_a_cache_are_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", "triton")
    launches = recorded_launches(monkeypatch)
    q_nope, q_rope, latent, k_rope, *matrices = tensors(2, 1, 192)
    for length in (65, 66, 128):
        views = latent[:, :length], k_rope[:, :length]
        ours = mla_decode(q_nope, q_rope, *views, *matrices, 0.3)
        torch.testing.assert_close(ours, VERSIONS["reference"](q_nope, q_rope, *views, *matrices, 0.3))
    shapeless = [[x for x in launch if not isinstance(x, torch.Size)] for launch in launches]
    assert shapeless[:2] == shapeless[2:4] == shapeless[4:]


@pytest.mark.parametrize(
    "change", [lambda x: x[:, 3:63], lambda x: x[:, ::2], lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)]
)
@pytest.mark.parametrize("both", [True, False])
def test_caches_may_have_any_strides(change, both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q_nope, q_rope, latent, k_rope, *matrices = tensors(2, 1, 100)
    latent = change(latent)
    k_rope = change(k_rope) if both else change(k_rope).contiguous()
    monkeypatch.setenv("LONGCAT_KERNELS", "triton")
    ours = mla_decode(q_nope, q_rope, latent, k_rope, *matrices, 0.3)
    torch.testing.assert_close(ours, VERSIONS["reference"](q_nope, q_rope, latent, k_rope, *matrices, 0.3))


@pytest.mark.parametrize("lengths", [torch.tensor([3]).int(), torch.tensor([3, 3])])
def test_lengths_are_checked(lengths: torch.Tensor) -> None:
    with pytest.raises(KernelError, match=r"lengths must be int32 \[2\]"):
        mla_decode(*tensors(2, 1, 4), 0.3, lengths)
