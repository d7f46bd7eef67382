"""Paged decode: every version against expanded attention in float64, and what its bits may not depend on."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from longcat.kernels.mla_attention import mla_attention
from longcat.kernels.mla_paged_decode import VERSIONS, mla_paged_decode
from longcat.kernels.select import KernelError

every_version = pytest.mark.parametrize("version", sorted(VERSIONS))
SCALE = 0.4


@dataclass
class Batch:
    """Queries of some sequences, and the pages in which what they attend to lies."""

    q_BTHE: torch.Tensor
    pages_PLE: torch.Tensor
    table_BM: torch.Tensor
    lengths_B: torch.Tensor
    latent_width: int

    def to(self, dtype: torch.dtype) -> "Batch":
        return replace(self, q_BTHE=self.q_BTHE.to(dtype), pages_PLE=self.pages_PLE.to(dtype))

    def rows(self, *chosen: int) -> "Batch":
        index = list(chosen)
        return replace(self, q_BTHE=self.q_BTHE[index], table_BM=self.table_BM[index], lengths_B=self.lengths_B[index])

    def decode(self) -> torch.Tensor:
        return mla_paged_decode(self.q_BTHE, self.pages_PLE, self.table_BM, self.lengths_B, self.latent_width, SCALE)


def make_batch(
    lengths: list[int], tokens: int = 1, heads: int = 3, page_size: int = 16, widths: tuple[int, int] = (7, 4)
) -> Batch:
    """Pages in random order; all that no sequence holds is NaN, and unused places of the table name no page."""
    generator = torch.Generator().manual_seed(len(lengths) + 10 * tokens)
    held = [math.ceil(length / page_size) for length in lengths]
    order = iter(torch.randperm(sum(held) + 2, generator=generator).tolist())
    pages = torch.full((sum(held) + 2, page_size, sum(widths)), math.nan, dtype=torch.float64)
    table = torch.full((len(lengths), max(held, default=0) + 1), -7, dtype=torch.int32)
    for row, length in enumerate(lengths):
        for place in range(held[row]):
            page, filled = next(order), min(page_size, length - place * page_size)
            table[row, place] = page
            pages[page, :filled] = torch.randn(filled, sum(widths), dtype=torch.float64, generator=generator)
    q = torch.randn(len(lengths), tokens, heads, sum(widths), dtype=torch.float64, generator=generator)
    return Batch(q, pages, table, torch.tensor(lengths, dtype=torch.int32), widths[0])


def expected(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Each sequence alone, its positions in a row, by the reference of plain attention; zeros where it sees nothing."""
    monkeypatch.setenv("LONGCAT_KERNELS", "reference")
    tokens, heads = batch.q_BTHE.shape[1:3]
    o = torch.zeros(*batch.q_BTHE.shape[:3], batch.latent_width, dtype=torch.float64)
    for row, length in enumerate(batch.lengths_B.tolist()):
        positions = torch.arange(length)
        pages = batch.table_BM[row, positions // batch.pages_PLE.shape[1]].long()
        k = batch.pages_PLE[pages, positions % batch.pages_PLE.shape[1]].unsqueeze(1).expand(-1, heads, -1)[None]
        seeing = min(tokens, length)
        q = batch.q_BTHE[row : row + 1, tokens - seeing :]
        o[row, tokens - seeing :] = mla_attention(q, k, k[..., : batch.latent_width], SCALE)[0]
    return o


CASES = {
    "ragged": make_batch([5, 0, 33, 16]),
    "several tokens": make_batch([2, 40, 1, 0], tokens=4),
    "several parts": make_batch([300, 700], tokens=2),
    "published widths": make_batch([70], tokens=2, heads=64, page_size=64, widths=(512, 64)),
    "no rotary part": make_batch([9], widths=(16, 0)),
    "empty": make_batch([0, 0]),
    "no sequences": make_batch([]),
    "no tokens": make_batch([5], tokens=0),
}
every_case = pytest.mark.parametrize("case", list(CASES))


@every_case
@every_version
def test_version_agrees_with_float64(case: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = CASES[case]
    exact = expected(batch, monkeypatch)
    monkeypatch.setenv("LONGCAT_KERNELS", f"mla_paged_decode={version}")
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        result = batch.to(dtype).decode()
        assert (result.dtype, result.shape) == (dtype, exact.shape)
        error = torch.linalg.vector_norm(result.double() - exact)
        assert error <= tolerance * torch.linalg.vector_norm(exact), dtype


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short sequences as long ones are, into 4 parts at most, longer than the least where 4 would not do."""
    monkeypatch.setattr("longcat.kernels.mla_paged_decode.triton.PARTS", 4)
    monkeypatch.setattr("longcat.kernels.mla_paged_decode.triton.LEAST", 32)


def test_parts_of_long_sequences_add_up(small_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch([300, 64, 129, 31], tokens=3)
    exact = expected(batch, monkeypatch)
    monkeypatch.setenv("LONGCAT_KERNELS", "mla_paged_decode=triton")
    torch.testing.assert_close(batch.to(torch.float32).decode().double(), exact, rtol=1e-5, atol=1e-6)


@every_version
def test_bits_of_a_sequence_do_not_depend_on_the_others(
    version: str, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", f"mla_paged_decode={version}")
    batch = make_batch([300, 0, 700, 3, 90], tokens=2).to(torch.float32)
    together = batch.decode()
    for row in range(5):
        assert torch.equal(batch.rows(row).decode()[0], together[row])
    assert torch.equal(batch.rows(3, 2).decode(), together[[3, 2]])
    cut = batch.rows(0)
    held = math.ceil(300 / 16)
    assert torch.equal(replace(cut, table_BM=cut.table_BM[:, :held]).decode()[0], together[0])


@every_version
def test_bits_do_not_depend_on_which_pages_hold_a_sequence(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", f"mla_paged_decode={version}")
    batch = make_batch([40, 7, 64]).to(torch.float32)
    new_P = torch.randperm(batch.pages_PLE.shape[0])
    moved_PLE = torch.empty_like(batch.pages_PLE)
    moved_PLE[new_P] = batch.pages_PLE
    table_BM = torch.where(batch.table_BM < 0, batch.table_BM, new_P[batch.table_BM.clamp(min=0)].to(torch.int32))
    moved = replace(batch, pages_PLE=moved_PLE, table_BM=table_BM)
    assert torch.equal(moved.decode(), batch.decode())


def test_inputs_may_be_slices_of_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", "triton")
    batch = make_batch([40, 7], tokens=2).to(torch.float32)
    sliced = Batch(
        torch.nn.functional.pad(batch.q_BTHE, (3, 1, 1, 0))[..., 1:, 3:-1],
        torch.nn.functional.pad(batch.pages_PLE, (2, 5))[..., 2:-5],
        torch.nn.functional.pad(batch.table_BM, (1, 1))[:, 1:-1],
        torch.stack((batch.lengths_B, batch.lengths_B), dim=1)[:, 0],
        batch.latent_width,
    )
    assert torch.equal(sliced.decode(), batch.decode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pages_PLE": torch.zeros(4, 16, 9)}, "queries of width 11 need pages of that width"),
        ({"latent_width": 12}, "a latent width up to it, got 11 and 12"),
        ({"lengths_B": torch.zeros(3, dtype=torch.int32)}, "2 sequences need as many rows"),
        ({"lengths_B": torch.zeros(2, dtype=torch.int64)}, "must be int32, got torch.int32 and torch.int64"),
        ({"lengths_B": torch.tensor([5, 49], dtype=torch.int32)}, "lengths must be from 0 to 48"),
        ({"lengths_B": torch.tensor([5, -1], dtype=torch.int32)}, "lengths must be from 0 to 48"),
        ({"table_BM": torch.full((2, 3), 5, dtype=torch.int32)}, "names pages outside 0 to 4"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        replace(make_batch([20, 5]), **change).decode()
