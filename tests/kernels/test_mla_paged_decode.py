"""Paged decode: every version compared with expanded attention in float64, and batch invariance of its bits."""

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch

from longcat.kernels.mla_attention import mla_attention
from longcat.kernels.mla_paged_decode import VERSIONS, SequencePages, mla_paged_decode
from longcat.kernels.mla_paged_decode.splits import LEAST, MOST, choose_splits
from longcat.kernels.select import KernelError
from tests.kernels.device import DEVICE, on_the_processor

every_version = pytest.mark.parametrize("version", sorted(VERSIONS))
SCALE = 0.4


@dataclass
class Batch:
    """Queries of several sequences, and the pages of their cached positions."""

    q_BTHE: torch.Tensor
    pages_PLE: torch.Tensor
    table_BM: torch.Tensor
    lengths_B: torch.Tensor
    latent_width: int
    splits: int | None = None

    def to(self, dtype: torch.dtype) -> "Batch":
        return replace(self, q_BTHE=self.q_BTHE.to(dtype), pages_PLE=self.pages_PLE.to(dtype))

    def rows(self, *chosen: int) -> "Batch":
        index = list(chosen)
        return replace(self, q_BTHE=self.q_BTHE[index], table_BM=self.table_BM[index], lengths_B=self.lengths_B[index])

    def decode(self) -> torch.Tensor:
        tensors = (self.q_BTHE, self.pages_PLE, self.table_BM, self.lengths_B)
        return mla_paged_decode(*tensors, self.latent_width, SCALE, self.splits)


def make_batch(
    lengths: list[int], tokens: int = 1, heads: int = 3, page_size: int = 16, widths: tuple[int, int] = (7, 4)
) -> Batch:
    """Pages in random order; unused positions are NaN, and unused entries of the table are invalid."""
    with torch.device("cpu"):  # random values do not depend on the page order
        batch = _batch(lengths, tokens, heads, page_size, widths)
    moved = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return Batch(**{name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in moved.items()})


def _batch(lengths: list[int], tokens: int, heads: int, page_size: int, widths: tuple[int, int]) -> Batch:
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
    """Each sequence separately, contiguous, with the reference attention; zeros if it has no positions."""
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
    """Split short sequences like long ones."""
    monkeypatch.setattr("longcat.kernels.mla_paged_decode.triton.LEAST", 32)


@pytest.mark.parametrize("splits", [None, 1, 3, 16])
def test_parts_of_long_sequences_add_up(splits: int | None, small_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single part writes the result directly; few parts exceed the minimum length, of many most are empty."""
    batch = replace(make_batch([300, 64, 129, 31, 0, 2], tokens=3), splits=splits)
    exact = expected(batch, monkeypatch)
    monkeypatch.setenv("LONGCAT_KERNELS", "mla_paged_decode=triton")
    torch.testing.assert_close(batch.to(torch.float32).decode().double(), exact, rtol=1e-5, atol=1e-6)


@every_version
def test_bits_of_a_sequence_do_not_depend_on_the_others(
    version: str, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", f"mla_paged_decode={version}")
    batch = replace(make_batch([300, 0, 700, 3, 90], tokens=2).to(torch.float32), splits=4)
    together = batch.decode()
    for row in range(5):
        assert torch.equal(batch.rows(row).decode()[0], together[row])
    assert torch.equal(batch.rows(3, 2).decode(), together[[3, 2]])
    cut = batch.rows(0)
    held = math.ceil(300 / 16)
    assert torch.equal(replace(cut, table_BM=cut.table_BM[:, :held]).decode()[0], together[0])


@every_version
def test_bits_do_not_depend_on_the_pages_of_a_sequence(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


@on_the_processor
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pages_PLE": torch.zeros(4, 16, 9)}, "queries of width 11 need pages of that width"),
        ({"latent_width": 12}, "a latent width up to it, got 11 and 12"),
        ({"lengths_B": torch.zeros(3, dtype=torch.int32)}, "2 sequences need as many rows"),
        ({"lengths_B": torch.zeros(2, dtype=torch.int64)}, "must be int32, got torch.int32 and torch.int64"),
        ({"lengths_B": torch.tensor([5, 49], dtype=torch.int32)}, "lengths must be from 0 to 48"),
        ({"lengths_B": torch.tensor([5, -1], dtype=torch.int32)}, "lengths must be from 0 to 48"),
        ({"splits": 0}, "splits must be from 1 to 128, got 0"),
        ({"table_BM": torch.full((2, 3), 5, dtype=torch.int32)}, "names pages outside 0 to 4"),
    ],
)
def test_inconsistent_inputs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        replace(make_batch([20, 5]), **change).decode()


def recorded_launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Record for every kernel launch the grid, arguments that are not tensors, and shapes of tensors."""
    from triton.runtime.interpreter import GridExecutor

    launches: list[tuple[object, ...]] = []
    launch = GridExecutor.__call__

    def recorded(self: GridExecutor, *args: object, **kwargs: object) -> None:
        plain = [x.shape if isinstance(x, torch.Tensor) else x for x in (*args, *kwargs.values())]
        launches.append((self.fn.__name__, tuple(self.grid), *plain))
        launch(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", recorded)
    return launches


@on_the_processor
def test_launches_follow_from_shapes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a CUDA graph of one step could not be replayed for the next."""
    monkeypatch.setenv("LONGCAT_KERNELS", "triton")
    launches = recorded_launches(monkeypatch)
    batch = make_batch([300, 33]).to(torch.float32)
    for lengths in ([300, 33], [1, 0]):
        replace(batch, lengths_B=torch.tensor(lengths, dtype=torch.int32)).decode()
    assert len(launches) == 4
    assert launches[:2] == launches[2:]


def test_few_sequences_are_split_into_enough_parts_to_fill_the_gpu() -> None:
    assert [choose_splits(1, positions, 132) for positions in (0, 1, LEAST, LEAST + 1, 4096, 1 << 17)] == [
        *(1, 1, 1, 2, 64, MOST)
    ]
    assert [choose_splits(programs, 1 << 17, 132) for programs in (2, 8, 33, 66, 105, 106, 4096)] == [
        *(60, 15, 4, 2, 5, 1, 1)
    ]


@pytest.mark.parametrize("capacity", [64, 4096, 1 << 17])
def test_the_number_of_parts_is_bounded_by_the_gpu_and_not_by_the_table(capacity: int) -> None:
    """The workspace of 64 heads of 512 values, in float32, stays below 100 MiB on an H100."""
    for programs in range(1, 300):
        splits = choose_splits(programs, capacity, 132)
        assert splits * 64 <= max(64, capacity)
        assert splits == 1 or programs * splits * 64 * 512 * 4 < 100 << 20
        assert splits == 1 or programs * splits <= 6 * 132


def test_sequences_may_be_given_once_for_all_layers() -> None:
    """Consecutive pages are read without a copy; the result has the bits of tables on the device."""
    batch = make_batch([40, 3, 0, 16], tokens=2).to(torch.float32)
    tables = [[page for page in row if page >= 0] for row in batch.table_BM.tolist()]
    sequences = SequencePages.of(tables, batch.lengths_B.tolist(), 16, DEVICE)
    result = mla_paged_decode(batch.q_BTHE, batch.pages_PLE, sequences, None, batch.latent_width, SCALE)
    assert torch.equal(result, batch.decode())
    assert sequences.lengths_B.tolist() == [40, 3, 0, 16]
    row, scattered = SequencePages.of([[3, 4, 5], [3, 5]], [35, 20], 16, torch.device("cpu")).rows
    memory_NE = torch.arange(16.0 * 6).unsqueeze(1)
    assert row.read(memory_NE).data_ptr() == memory_NE[48].data_ptr()
    assert torch.equal(row.read(memory_NE), memory_NE[48:83])
    assert torch.equal(scattered.read(memory_NE), torch.cat((memory_NE[48:64], memory_NE[80:84])))


@on_the_processor
def test_inconsistent_sequences_are_refused() -> None:
    batch, device = make_batch([20, 5]), torch.device("cpu")
    with pytest.raises(KernelError, match="1 pages of 16 positions do not hold 17 positions"):
        SequencePages.of([[0]], [17], 16, device)
    with pytest.raises(KernelError, match="the page table names page -1"):
        SequencePages.of([[-1]], [7], 16, device)
    for sequences, message in (
        (SequencePages.of([[0]], [7], 16, device), "1 sequences in pages of 16 positions do not fit 2 sequences"),
        (SequencePages.of([[0], [1]], [7, 7], 8, device), "pages of 8 positions do not fit 2 .* pages of 16"),
        (SequencePages.of([[0], [5]], [7, 7], 16, device), "names pages outside 0 to 4"),
    ):
        with pytest.raises(KernelError, match=message):
            mla_paged_decode(batch.q_BTHE, batch.pages_PLE, sequences, None, batch.latent_width, SCALE)
    with pytest.raises(KernelError, match="a page table needs the lengths"):
        mla_paged_decode(batch.q_BTHE, batch.pages_PLE, batch.table_BM, None, batch.latent_width, SCALE)
