"""Packed matrices against float64: error bounds, ragged and empty shapes, rows that do not depend on their batch."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from longcat.kernels.packed_linear import FORMS, PackedMatrix, missing, pack, torch_quantized
from longcat.kernels.packed_linear.int8 import Quantized, quantize
from longcat.kernels.select import KernelError

# Greatest error of a result, as a share of the product of the norms of its row and column.
BOUNDS = {"plain": 1e-6, "fp32": 1e-6, "both": 1e-6, "fp16": 2**-11, "bf16": 3 * 2**-8, "int8": 0.03, "int4": 0.15}
SHAPES = [(1, 1), (7, 33), (48, 64), (130, 257)]
ROWS = [1, 2, 3, 8, 77, 600]

HERE = [form for form in FORMS if missing(form) is None]
forms = pytest.mark.parametrize("form", HERE)


def build(form: str, outputs: int, inputs: int) -> tuple[torch.Tensor, PackedMatrix]:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs))
    return weight, pack(weight, form)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@forms
def test_results_are_within_the_bound_of_the_form(form: str, outputs: int, inputs: int) -> None:
    weight, matrix = build(form, outputs, inputs)
    for rows in ROWS:
        x = torch.randn(rows, inputs)
        error = (matrix(x).double() - x.double() @ weight.double().T).abs()
        scale = x.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)
        assert float((error / scale).max()) <= BOUNDS[form]


@forms
def test_no_rows_give_no_rows(form: str) -> None:
    _, matrix = build(form, 7, 33)
    assert matrix(torch.empty(0, 33)).shape == (0, 7)


@forms
def test_the_result_is_float32_of_the_right_shape_for_rows_that_are_not_contiguous(form: str) -> None:
    _, matrix = build(form, 48, 64)
    wide = torch.randn(5, 128)
    y = matrix(wide[:, 32:96])
    assert (y.shape, y.dtype) == ((5, 48), torch.float32)
    torch.testing.assert_close(y, matrix(wide[:, 32:96].contiguous()))


@pytest.mark.parametrize("form", [form for form in HERE if FORMS[form].batch_invariant])
def test_a_row_has_the_same_bits_in_every_batch(form: str) -> None:
    _, matrix = build(form, 130, 256)
    x = torch.randn(600, 256) * torch.rand(600, 1).exp()
    alone = torch.cat([matrix(row) for row in x.split(1)])
    for rows in (2, 8, 33, 600):
        assert torch.equal(torch.cat([matrix(part) for part in x.split(rows)]), alone)


@pytest.mark.parametrize("outlier", [1e4, float("inf"), float("nan")])
def test_a_row_of_outliers_does_not_change_the_others_of_int8(outlier: float) -> None:
    _, matrix = build("int8", 48, 64)
    x = torch.randn(4, 64)
    before = matrix(x)
    x[2, 5] = outlier
    after = matrix(x)
    assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])
    assert bool(after[2].isfinite().all()) == (outlier == 1e4)


def test_rows_of_another_thread_do_not_change_the_memory_of_int8_rows() -> None:
    _, matrix = build("int8", 48, 64)
    x = torch.randn(2, 64)
    expected = matrix(x)
    rows = matrix.enter(x)
    with ThreadPoolExecutor(1) as other:
        other.submit(matrix, torch.randn(2, 64)).result()
    assert torch.equal(matrix.leave(matrix.product(rows.values_NJ), rows), expected)


def test_int8_rows_of_inference_mode_and_without_share_their_memory() -> None:
    _, matrix = build("int8", 8, 20)
    x = torch.randn(3, 20)
    with torch.inference_mode():
        expected = matrix(x).clone()
    assert torch.equal(matrix(x), expected)


def test_a_row_of_zeros_is_zero_in_every_form() -> None:
    for form in HERE:
        _, matrix = build(form, 48, 64)
        assert float(matrix(torch.zeros(3, 64)).abs().max()) < 1e-6


def test_int8_values_are_exact_multiples_and_pack_to_the_same_matrix() -> None:
    weight, matrix = build("int8", 48, 64)
    again = quantize(quantize(weight).dequantized())
    assert torch.equal(again.values_OI, quantize(weight).values_OI)
    x = torch.randn(3, 64)
    torch.testing.assert_close(pack_quantized(again)(x), matrix(x))


def pack_quantized(quantized: Quantized) -> PackedMatrix:
    return FORMS["int8"](quantized)


def test_int8_keeps_its_bound_at_the_largest_values() -> None:
    """Sums of pairs overflow 16 bits on processors without VNNI, where rows then take 7 bits."""
    matrix = pack(torch.ones(64, 64), "int8")
    torch.testing.assert_close(matrix(torch.ones(2, 64)), torch.full((2, 64), 64.0), rtol=0.01, atol=0.0)


def test_values_beyond_float16_are_refused() -> None:
    with pytest.raises(KernelError, match=r"beyond float16.*use fp32 or bf16"):
        pack(torch.tensor([[1e6]]), "fp16")


def test_unknown_and_missing_forms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="unknown form 'int3', choose one of plain"):
        pack(torch.ones(1, 1), "int3")
    monkeypatch.setattr(torch_quantized, "ENGINE", "other")
    missing.cache_clear()
    try:
        with pytest.raises(KernelError, match="built without the quantised engine 'other'; use fp32 or plain"):
            pack(torch.ones(1, 1), "int8")
    finally:
        missing.cache_clear()


def test_bfloat16_needs_a_processor_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    missing.cache_clear()
    try:
        with pytest.raises(KernelError, match="oneDNN has no products of bfloat16 for this processor; use fp32 or"):
            pack(torch.ones(1, 1), "bf16")
        assert missing("fp32") is None
    finally:
        missing.cache_clear()


def test_packing_leaves_the_engine_of_the_process() -> None:
    before = torch.backends.quantized.engine
    build("int8", 4, 4)
    assert torch.backends.quantized.engine == before
