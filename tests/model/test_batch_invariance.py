"""The deterministic setting: the bits of a text's logits depend only on the text."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from longcat.model import batch_invariance as deterministic
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.batch_invariance import batch_invariant
from longcat.model.checkpoint import load_pretrained
from longcat.model.errors import ModelError
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]

ABLATED: dict[str, Any] = {
    "moe_layout": "interleaved",
    "gating_residual": True,
    "zero_expert_num": 4,
    "zero_expert_types": {"constant": 2, "identity": 1, "zero": 1},
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("length", [1, 5, 37, 300])
@pytest.mark.parametrize("changes", [{}, ABLATED, {"zero_expert_type": "null"}], ids=["published", "ablated", "null"])
def test_batch_padding_and_pieces_change_no_bit(length: int, changes: dict[str, Any], build_model: BuildModel) -> None:
    model = build_model(num_nextn_predict_layers=1, **changes)
    text_BT, others_BT = torch.randint(0, 97, (1, length)), torch.randint(0, 97, (2, length))
    padding_BT = torch.full((1, 29), 3)
    with batch_invariant():
        alone = model(text_BT)
        batch = model(torch.cat((others_BT, text_BT)))
        padded = model(torch.cat((text_BT, padding_BT), dim=1))
        for hidden_BTD in (batch.hidden_BTD[2:], padded.hidden_BTD[:, :length]):
            assert torch.equal(hidden_BTD, alone.hidden_BTD)
        assert torch.equal(batch.logits[2:], alone.logits)
        assert torch.equal(padded.logits[:, :length], alone.logits)
        expected = model.mtp_forward(alone.hidden_BTD, text_BT).logits
        again = model.mtp_forward(batch.hidden_BTD, torch.cat((others_BT, text_BT))).logits
        assert torch.equal(again[2:], expected)
    with torch.inference_mode(), batch_invariant():
        assert torch.equal(model(text_BT).logits, alone.logits)
    plain = model(text_BT).logits
    assert torch.linalg.vector_norm(plain - alone.logits) < 2e-6 * torch.linalg.vector_norm(plain)


@pytest.mark.parametrize("length", [1, 5, 37, 150])
def test_pieces_and_rows_of_steps_change_no_bit(length: int, build_model: BuildModel) -> None:
    """With absorbed projections in all pieces: expanded keys of a prompt would be other products."""
    model = build_model()
    for mixer in model.modules():
        if isinstance(mixer, MultiHeadLatentAttention):
            mixer.absorbs_always = True
    text_BT, other_BT = torch.randint(0, 97, (1, length)), torch.randint(0, 97, (1, length))
    with batch_invariant():
        alone = Rows(model, 1, length).append(text_BT).logits
        rows = Rows(model, 2, length, page_size=8)
        pieces = torch.cat((other_BT, text_BT)).split([max(length - 3, 1), *[1] * min(length - 1, 3)], dim=1)
        logits = torch.cat([rows.append(piece).logits for piece in pieces], dim=1)
    assert torch.equal(logits[1:], alone)
    plain = model(text_BT).logits
    assert torch.linalg.vector_norm(plain - alone) < 2e-6 * torch.linalg.vector_norm(plain)


@pytest.mark.parametrize("threads", [1, 2])
def test_wide_rows_and_threads_change_no_bit(threads: int) -> None:
    """Sizes above one tile in every dimension, and enough values for torch to use several threads."""
    model = LongcatFlash(load_preset("tiny"))
    initialize(model, seed=0)
    torch.set_num_threads(threads)
    text_BT = torch.randint(0, model.config.vocab_size, (1, 45))
    others_BT = torch.randint(0, model.config.vocab_size, (3, 45))
    with batch_invariant():
        alone = model(text_BT).logits
        batch = model(torch.cat((others_BT[:1], text_BT, others_BT[1:]))).logits
    assert torch.equal(batch[1:2], alone)


def test_greedy_continuations_are_those_of_the_golden_checkpoint(golden: Path) -> None:
    model, expected = load_pretrained(golden), load_file(golden / "expected.safetensors")
    with batch_invariant():
        logits = model(expected["greedy"]).logits
    prompt = expected["prompt"].shape[1]
    assert torch.equal(logits[:, prompt - 1 : -1].argmax(-1), expected["greedy"][:, prompt:])


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (3, 256, 7), (40, 300, 257), (16, 513, 512), (0, 4, 3), (2, 0, 3)]
)
def test_products(m: int, k: int, n: int) -> None:
    a, b = torch.randn(m, k), torch.randn(n, k).t()
    exact = a.double() @ b.double()
    result = deterministic.product(a, b)
    assert torch.linalg.vector_norm(result - exact) <= 1e-6 * torch.linalg.vector_norm(exact)
    assert torch.equal(deterministic.product(a[m // 2 :], b[:, n // 2 :]), result[m // 2 :, n // 2 :])
    assert torch.equal(deterministic.product(a, b.contiguous()), result)
    assert torch.equal(deterministic.products(a.expand(3, m, k), b.expand(3, k, n))[1], result)
    half = deterministic.product(a.bfloat16(), b.bfloat16())
    assert torch.equal(half, deterministic.product(a.bfloat16().float(), b.bfloat16().float()).bfloat16())


def test_sums_and_softmax_of_padded_rows() -> None:
    x = torch.randn(21, 70)
    longer = F.pad(x, (0, 700), value=float("-inf"))
    with batch_invariant():
        probabilities, logarithms = x.softmax(-1), x.log_softmax(-1)
        assert torch.equal(longer.softmax(-1)[:, :70], probabilities)
        assert torch.equal(x[5:7].softmax(-1), probabilities[5:7])
        assert torch.equal(x[5:7].mean(-1, keepdim=True), x.mean(-1, keepdim=True)[5:7])
        assert torch.equal(F.silu(x.flatten()[3:50]), F.silu(x).flatten()[3:50])
        cubes = torch.randn(19, 3, 40)
        sums = cubes.sum(1)
        assert torch.equal(cubes[18:].sum(dim=1), sums[18:])
    torch.testing.assert_close(probabilities, x.softmax(-1))
    torch.testing.assert_close(logarithms, x.log_softmax(-1))
    torch.testing.assert_close(sums, cubes.sum(1))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: x.erf(), "aten.erf.default has no batch-invariant form"),
        (lambda x: torch.linalg.vector_norm(x, dim=-1), "aten.linalg_vector_norm.default has no"),
        (lambda x: torch.einsum("ij,ij->", [x, x]).cumsum(0), "has no batch-invariant form"),
        (lambda x: x.sum(0), "a sum over the rows of a batch"),
        (lambda x: x**3, "only a square has a batch-invariant form"),
        (lambda x: x.softmax(0), "only a softmax over the last dimension"),
    ],
)
def test_operations_without_a_batch_invariant_form_are_refused(operation: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message), batch_invariant():
        operation(torch.ones(4, 4))
    operation(torch.ones(4, 4))


def test_the_state_of_the_process_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "cpu"):
        if before:
            monkeypatch.setenv("LONGCAT_KERNELS", before)
        else:
            monkeypatch.delenv("LONGCAT_KERNELS", raising=False)
        with pytest.raises(KeyError), batch_invariant():
            assert os.environ["LONGCAT_KERNELS"] == "reference"
            raise KeyError
        assert os.environ.get("LONGCAT_KERNELS") == before


def test_a_library_whose_products_depend_on_the_row_position_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.Tensor.addmm_

    def biased(self: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return original(self, a, b).mul_(torch.linspace(1, 1.001, len(self)).unsqueeze(1))

    deterministic._check_tiles.cache_clear()
    monkeypatch.setattr(torch.Tensor, "addmm_", biased)
    with pytest.raises(ModelError, match=r"products of torch\.float32 on cpu depend on the position of a row"):
        deterministic.product(torch.ones(2, 2), torch.ones(2, 2))
