"""Document bounds: their values, sharing by all layers of a batch, and errors."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch

from longcat.kernels.mla_attention import DocumentBounds, document_bounds, document_lengths, mla_attention
from longcat.kernels.select import KernelError

CPU = torch.device("cpu")


def test_documents_end_at_the_edges_of_rows() -> None:
    cu_seqlens = torch.tensor([0, 3, 3, 9, 12])
    assert document_lengths(cu_seqlens, batch=2, tokens=6) == [3, 3, 3, 3]
    spans_2BT = document_bounds(cu_seqlens, batch=2, tokens=6).spans_2BT
    assert spans_2BT.dtype == torch.int32
    assert spans_2BT.tolist() == [
        [[0, 0, 0, 3, 3, 3], [0, 0, 0, 3, 3, 3]],
        [[3, 3, 3, 6, 6, 6], [3, 3, 3, 6, 6, 6]],
    ]


@pytest.mark.parametrize(
    ("bounds", "batch", "tokens"), [([0, 0], 1, 0), ([0], 2, 0), ([0, 0, 7, 7], 1, 7), ([0, 4], 4, 1)]
)
def test_spans_agree_with_lengths(bounds: list[int], batch: int, tokens: int) -> None:
    documents = document_bounds(torch.tensor(bounds, dtype=torch.int32), batch, tokens)
    begins, ends, place = [], [], 0
    for length in documents.lengths:
        begins += [place % tokens] * length
        ends += [place % tokens + length] * length
        place += length
    assert documents.spans_2BT.flatten(1).tolist() == [begins, ends]


@pytest.mark.parametrize("bounds", [[0, 5], [1, 12], [0, 7, 5, 12], []])
def test_bounds_that_do_not_partition_the_tokens_are_refused(bounds: list[int]) -> None:
    for make in (document_bounds, document_lengths):
        with pytest.raises(KernelError, match="must rise from 0 to 12"):
            make(torch.tensor(bounds), batch=2, tokens=6)


def test_wrong_bounds_on_a_device_stay_within_their_rows() -> None:
    documents = DocumentBounds.__new__(DocumentBounds)
    documents.cu_seqlens, documents.batch, documents.tokens, documents.device = torch.tensor([3, 900, -5]), 2, 6, CPU
    assert 0 <= int(documents.spans_2BT.min()) <= int(documents.spans_2BT.max()) <= 6


def test_one_batch_has_one_object_as_long_as_it_is_unchanged() -> None:
    cu_seqlens = torch.tensor([0, 4, 12])
    first = document_bounds(cu_seqlens, 1, 12)
    assert document_bounds(cu_seqlens, 1, 12) is first
    assert document_bounds(cu_seqlens, 2, 6).lengths == [4, 2, 6]
    cu_seqlens[1] = 5
    assert document_bounds(cu_seqlens, 1, 12).lengths == [5, 7]
    with torch.inference_mode():
        assert document_bounds(torch.tensor([0, 2]), 1, 2).lengths == [2]


def test_bounds_do_not_outlive_their_batch() -> None:
    cu_seqlens = torch.tensor([0, 4, 12])
    alive = weakref.ref(document_bounds(cu_seqlens, 1, 12))
    del cu_seqlens
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("setting", ["reference", "cpu", "triton", "torch"])
def test_attention_accepts_the_object_in_place_of_the_tensor(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", f"mla_attention={setting}")
    q, v, cu_seqlens = torch.randn(2, 6, 1, 8), torch.randn(2, 6, 1, 4), torch.tensor([0, 4, 12])
    documents = document_bounds(cu_seqlens, 2, 6, CPU)
    assert torch.equal(mla_attention(q, q, v, 0.3, documents), mla_attention(q, q, v, 0.3, cu_seqlens))


@pytest.mark.parametrize(
    "made", [lambda: document_bounds(torch.tensor([0, 6]), 1, 6), lambda: document_bounds(torch.tensor([0, 12]), 1, 12)]
)
def test_bounds_of_another_batch_are_refused(made: Callable[[], DocumentBounds]) -> None:
    q = torch.randn(2, 6, 1, 8)
    with pytest.raises(KernelError, match="do not fit 2 rows of 6 queries on cpu"):
        mla_attention(q, q, q, 0.3, made())
