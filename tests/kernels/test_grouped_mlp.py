"""Tiles of grouped products, and behaviour of their kernels for experts without rows."""

import pytest
import torch

from longcat.kernels.chips import CHIPS
from longcat.kernels.grouped_mlp import VERSIONS, reference, tiles
from longcat.kernels.grouped_mlp.tiles import choose
from longcat.kernels.grouped_mlp.triton import schedule


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 0, 65], [16, 0, 0], [0, 0], [1], [4, 4, 4, 4], [1, 2] * 200])
def test_tiles_cover_every_row_once_and_belong_to_one_expert(counts: list[int], block: int) -> None:
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    bounds = [0, *ends.tolist()]
    expert_I, row_I = schedule(ends, sum(counts), block)
    covered = []
    for expert, row in zip(expert_I.tolist(), row_I.tolist(), strict=True):
        if expert < len(counts):
            assert bounds[expert] <= row < bounds[expert + 1]
            covered += range(row, min(row + block, bounds[expert + 1]))
    assert covered == list(range(sum(counts)))
    assert expert_I.dtype == row_I.dtype == torch.int32


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_few_rows_per_expert_use_small_tiles(chip) -> None:
    few, some, many = (choose(chip, torch.bfloat16, rows, 512) for rows in (512 * 8, 512 * 32, 512 * 128))
    assert few.rows < some.rows < many.rows
    assert few.swap
    assert some.swap
    assert not many.swap
    assert choose(chip, torch.float32, 512 * 8, 512) == choose(chip, torch.float32, 512 * 128, 512)


def gradients(version: str, inputs: list[torch.Tensor], ends: torch.Tensor) -> list[torch.Tensor]:
    tensors = [tensor.clone().requires_grad_() for tensor in inputs]
    y = VERSIONS[version](*tensors, ends)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), tensors)]


@pytest.mark.parametrize("version", VERSIONS)
def test_experts_without_rows_get_zeros_and_are_not_read(version: str) -> None:
    torch.manual_seed(0)
    rows, gate_up, down = torch.randn(5, 8), torch.randn(4, 24, 8), torch.randn(4, 8, 12)
    gate_up[[0, 2]], down[[0, 2]] = float("nan"), float("nan")
    ends = torch.tensor([0, 3, 3, 5], dtype=torch.int32)
    y, grad_rows, grad_gate_up, grad_down = gradients(version, [rows, gate_up, down], ends)
    assert not any(tensor.isnan().any() for tensor in (y, grad_rows, grad_gate_up, grad_down))
    for expert, used in enumerate([False, True, False, True]):
        assert bool(grad_gate_up[expert].any()) == bool(grad_down[expert].any()) == used


@pytest.mark.parametrize("kind", ["FEW", "SOME", "MANY"])
@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 33, 0, 0], [0, 0, 0, 0], [17, 16, 40, 2]])
def test_every_tile_agrees_with_the_reference(kind: str, counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, which uses none of these tiles on a GPU, so that rounding hides no error."""
    monkeypatch.setattr("longcat.kernels.grouped_mlp.triton.choose", lambda *shape: getattr(tiles, kind)["sm_90"])
    torch.manual_seed(0)
    inputs = [torch.randn(sum(counts), 24), torch.randn(4, 140, 24) / 5, torch.randn(4, 24, 70) / 8]
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    exact = gradients("reference", [tensor.double() for tensor in inputs], ends)
    for expected, ours in zip(exact, gradients("triton", inputs, ends), strict=True):
        assert torch.linalg.vector_norm(ours.double() - expected) <= 2e-6 * torch.linalg.vector_norm(expected)


def test_float16_is_multiplied_as_float16() -> None:
    """Product of half-precision operands, rounded as on a GPU; the interpreter cannot do this for bfloat16."""
    torch.manual_seed(0)
    inputs = [torch.randn(9, 8), torch.randn(3, 24, 8) / 3, torch.randn(3, 8, 12) / 3]
    ends = torch.tensor([4, 4, 9], dtype=torch.int32)
    exact = gradients("reference", [tensor.half().double() for tensor in inputs], ends)
    for expected, ours in zip(exact, gradients("triton", [tensor.half() for tensor in inputs], ends), strict=True):
        assert torch.linalg.vector_norm(ours.double() - expected) <= 1e-3 * torch.linalg.vector_norm(expected)


def test_nothing_is_saved_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from longcat.kernels.grouped_mlp import triton as ours

    kept = []
    launch = ours._Rows.launch

    def recorded(self, kernel, columns, tensors, sizes, **flags) -> None:
        kept.append(flags.get("KEEP"))
        launch(self, kernel, columns, tensors, sizes, **flags)

    monkeypatch.setattr(ours._Rows, "launch", recorded)
    inputs = [torch.randn(2, 4), torch.randn(1, 8, 4, requires_grad=True), torch.randn(1, 4, 4)]
    ends = torch.tensor([2], dtype=torch.int32)
    with torch.no_grad():
        y = ours.grouped_mlp(*inputs, ends)
    torch.testing.assert_close(y, reference.grouped_mlp(*inputs, ends))
    ours.grouped_mlp(*inputs, ends)
    assert [flag for flag in kept if flag is not None] == [False, True]
