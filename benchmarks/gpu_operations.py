"""Operations that `gpu_first_run.py` times: ours, torch's, and those of FlashMLA and DeepGEMM if installed.

Never run on a GPU yet. An implementation that fails gives a row with its error instead of a time.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F

Rows = list[dict[str, Any]]
Call = Callable[[], Any]


@dataclass
class Bench:
    """Device and duration of measurements; `tiny` selects shapes that only test the script."""

    device: torch.device
    tiny: bool
    warmups: int = 3
    repetitions: int = 10

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.tiny else torch.bfloat16

    def randn(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def weight(self, *shape: int) -> torch.Tensor:
        return self.randn(*shape) / shape[-1] ** 0.5

    def seconds(self, call: Call) -> float:
        """Median over repetitions, by CUDA events on a GPU."""
        if self.tiny:
            call()
            started = time.perf_counter()
            call()
            return time.perf_counter() - started
        for _ in range(self.warmups):
            call()
        times = []
        for _ in range(self.repetitions):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            call()
            after.record()
            after.synchronize()
            times.append(before.elapsed_time(after) / 1e3)
        return statistics.median(times)

    def empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def forced(setting: str) -> Iterator[None]:
    """Set `LONGCAT_KERNELS` to `setting` inside the block."""
    before = os.environ.get("LONGCAT_KERNELS", "")
    os.environ["LONGCAT_KERNELS"] = setting
    try:
        yield
    finally:
        os.environ["LONGCAT_KERNELS"] = before


def compare(bench: Bench, about: dict[str, Any], calls: dict[str, Call], flop: float = 0, moved: float = 0) -> Rows:
    """One row per call: time, and rate for `flop` operations or `moved` bytes."""
    rows = []
    for name, call in calls.items():
        row = about | {"by": name}
        try:
            seconds = bench.seconds(call)
        except Exception as error:  # one failure must not hide the others
            rows.append(row | {"error": f"{type(error).__name__}: {str(error)[:300]}"})
            continue
        row["us"] = seconds * 1e6
        row |= {"tflop_per_s": flop / seconds / 1e12} if flop else {}
        row |= {"gb_per_s": moved / seconds / 1e9} if moved else {}
        rows.append(row)
    return rows


def with_setting(setting: str, call: Call) -> Call:
    def inside() -> Any:
        with forced(setting):
            return call()

    return inside


def limits(bench: Bench) -> Rows:
    """Peak rates of torch on this device: a square matrix product, and a copy, counted as read plus write."""
    size, values = (64, 1 << 12) if bench.tiny else (8192, 1 << 30)
    a, b, source = bench.randn(size, size), bench.randn(size, size), bench.randn(values)
    target, moved = torch.empty_like(source), 2 * source.nbytes
    rows = compare(bench, {"what": f"product {size}"}, {"torch": lambda: a @ b}, flop=2 * size**3)
    return rows + compare(
        bench, {"what": f"copy of {values} values"}, {"torch": lambda: target.copy_(source)}, 0, moved
    )


def attention(bench: Bench) -> Rows:
    """Causal attention at the sizes of LongCat-Flash, forward, and forward plus backward."""
    from longcat.kernels.mla_attention import mla_attention

    sizes = [(1, 16, 2)] if bench.tiny else [(2, 4096, 32), (1, 16384, 16)]
    rows: Rows = []
    for batch, tokens, heads in sizes:
        q, k = (bench.randn(batch, tokens, heads, 192).requires_grad_() for _ in range(2))
        v = bench.randn(batch, tokens, heads, 128).requires_grad_()
        direction = bench.randn(batch, tokens, heads, 128)

        def forward(q: Any = q, k: Any = k, v: Any = v) -> torch.Tensor:
            return mla_attention(q, k, v, 192**-0.5)

        def both(forward: Any = forward, inputs: Any = (q, k, v), direction: Any = direction) -> Any:
            return torch.autograd.grad(forward(), inputs, direction)

        pairs = batch * heads * tokens * (tokens + 1) / 2
        ways = {"ours": "", "SDPA": "mla_attention=torch"}
        for what, call, flop in (("forward", forward, 640), ("forward and backward", both, 640 + 1664)):
            about = {"what": what, "batch": batch, "tokens": tokens, "heads": heads}
            calls = {name: with_setting(setting, call) for name, setting in ways.items()}
            rows += compare(bench, about, calls, pairs * flop)
    return rows


def experts(bench: Bench) -> Rows:
    """Experts with many rows each, forward and backward, compared with torch's grouped products."""
    from longcat.kernels.grouped_mlp import grouped_mlp

    count, per, width, inner = (3, 4, 16, 8) if bench.tiny else (16, 1024, 6144, 2048)
    rows, gate_up, down, ends = _experts(bench, count, per, width, inner)
    inputs, direction = [x.requires_grad_() for x in (rows, gate_up, down)], bench.randn(count * per, width)
    flop = 6 * count * per * width * inner
    found: Rows = []
    for what, call, times in (
        ("forward", lambda: grouped_mlp(*inputs, ends), 1),
        ("forward and backward", lambda: torch.autograd.grad(grouped_mlp(*inputs, ends), inputs, direction), 3),
    ):
        calls = {name: with_setting(setting, call) for name, setting in _expert_ways(bench).items()}
        if times == 1 and find_spec("deep_gemm") is not None:
            calls["DeepGEMM"] = _deep_gemm(rows.detach(), gate_up.detach(), down.detach(), per)
        found += compare(bench, {"what": what, "experts": count, "rows": per}, calls, flop * times)
    return found


@torch.no_grad()
def few_rows(bench: Bench) -> Rows:
    """Experts with few rows each, bound by reading the weights."""
    from longcat.kernels.grouped_mlp import grouped_mlp

    count, width, inner = (3, 16, 8) if bench.tiny else (64, 6144, 2048)
    found: Rows = []
    for per in (2,) if bench.tiny else (1, 4, 16, 32):
        rows, gate_up, down, ends = _experts(bench, count, per, width, inner)

        def call(inputs: Any = (rows, gate_up, down, ends)) -> torch.Tensor:
            return grouped_mlp(*inputs)

        calls = {name: with_setting(setting, call) for name, setting in _expert_ways(bench).items()}
        found += compare(bench, {"experts": count, "rows": per}, calls, moved=gate_up.nbytes + down.nbytes)
    return found


def _expert_ways(bench: Bench) -> dict[str, str]:
    return {"ours": "", "torch grouped_mm": "grouped_mlp=torch"}


def _experts(bench: Bench, count: int, per: int, width: int, inner: int) -> tuple[torch.Tensor, ...]:
    ends = torch.arange(per, count * per + 1, per, dtype=torch.int32, device=bench.device)
    return (
        bench.randn(count * per, width),
        bench.weight(count, 2 * inner, width),
        bench.weight(count, width, inner),
        ends,
    )


def _deep_gemm(rows: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, per: int) -> Call:
    """Two grouped products of DeepGEMM in bfloat16 around torch's activation; rows are multiples of its alignment."""
    import deep_gemm

    expert = torch.arange(down.shape[0], dtype=torch.int32, device=rows.device).repeat_interleave(per)
    hidden, y = rows.new_empty(rows.shape[0], gate_up.shape[1]), torch.empty_like(rows)

    def call() -> torch.Tensor:
        deep_gemm.m_grouped_bf16_gemm_nt_contiguous(rows, gate_up, hidden, expert)
        gate, up = hidden.chunk(2, dim=1)
        deep_gemm.m_grouped_bf16_gemm_nt_contiguous(F.silu(gate) * up, down, y, expert)
        return y

    return call


def feed_forwards(bench: Bench) -> Rows:
    """Dense FFN with fused gate and up projections compared with vendor products, for few rows and for many."""
    from longcat.kernels.feed_forward import feed_forward

    width, inner = (16, 24) if bench.tiny else (6144, 12288)
    weights = [bench.weight(*shape).requires_grad_() for shape in ((inner, width), (inner, width), (width, inner))]
    found: Rows = []
    for rows in (3,) if bench.tiny else (1, 32, 128, 8192):
        x, direction = bench.randn(rows, width).requires_grad_(), bench.randn(rows, width)

        def forward(x: Any = x) -> torch.Tensor:
            with torch.no_grad():
                return feed_forward(x, *weights)

        def both(x: Any = x, direction: Any = direction) -> Any:
            return torch.autograd.grad(feed_forward(x, *weights), [x, *weights], direction)

        for what, call, times in (("forward", forward, 1), ("forward and backward", both, 3)):
            ways = {"ours": "", "torch": "feed_forward=reference"}
            calls = {name: with_setting(setting, call) for name, setting in ways.items()}
            moved = 3 * weights[0].nbytes if times == 1 else 0
            found += compare(bench, {"what": what, "rows": rows}, calls, 6 * rows * width * inner * times, moved)
    return found


@torch.no_grad()
def paged_decode(bench: Bench) -> Rows:
    """One new token per sequence over cached latents; `gb_per_s` counts one read of the cache."""
    from longcat.kernels.mla_paged_decode import mla_paged_decode

    heads, latent, rotary, page = (2, 16, 4, 16) if bench.tiny else (64, 512, 64, 64)
    width, found = latent + rotary, []
    for batch, length in [(2, 20)] if bench.tiny else [(1, 4096), (1, 65536), (32, 4096), (128, 4096)]:
        held = -(-length // page)
        pages = bench.randn(batch * held, page, width)
        table = torch.randperm(batch * held, device=bench.device).to(torch.int32).view(batch, held)
        lengths = torch.full((batch,), length, dtype=torch.int32, device=bench.device)
        q = bench.randn(batch, 1, heads, width)

        def ours(inputs: Any = (q, pages, table, lengths)) -> torch.Tensor:
            return mla_paged_decode(*inputs, latent, width**-0.5)

        calls: dict[str, Call] = {"ours": ours}
        if find_spec("flash_mla") is not None:
            calls["FlashMLA"] = _flash_mla(q, pages, table, lengths, latent)
        flop = 2 * batch * heads * length * (width + latent)
        about = {"batch": batch, "positions": length}
        found += compare(bench, about, calls, flop, batch * length * width * pages.element_size())
    return found


def _flash_mla(q: torch.Tensor, pages: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, latent: int) -> Call:
    from flash_mla import flash_mla_with_kvcache, get_mla_metadata

    metadata, splits = get_mla_metadata(lengths, q.shape[2], 1)
    scale = q.shape[-1] ** -0.5

    def call() -> Any:
        return flash_mla_with_kvcache(
            q, pages.unsqueeze(2), table, lengths, latent, metadata, splits, softmax_scale=scale, causal=True
        )

    return call


@torch.no_grad()
def small_operations(bench: Bench) -> Rows:
    """Memory-bound operations (norms, RoPE, router, expert order, loss) compared with reference implementations."""
    from longcat.kernels.cross_entropy import cross_entropy
    from longcat.kernels.expert_order import expert_order
    from longcat.kernels.rms_norm import rms_norm
    from longcat.kernels.rope import rope
    from longcat.kernels.router import route

    tokens, width, vocabulary, count = (8, 16, 32, 6) if bench.tiny else (8192, 6144, 131072, 768)
    x, weight, heads = bench.randn(tokens, width), bench.randn(width), bench.randn(1, tokens, 16, 64)
    angles = torch.rand(tokens, 32, device=bench.device, dtype=torch.float64)
    scores, bias = torch.randn(tokens, count, device=bench.device), torch.zeros(count, device=bench.device)
    chosen = scores.topk(min(12, count)).indices
    logits = bench.randn(tokens, vocabulary)
    targets = torch.randint(vocabulary, (tokens,), device=bench.device)
    operations: dict[str, tuple[Call, float]] = {
        "rms_norm": (lambda: rms_norm(x, weight, 1e-5), 2 * x.nbytes),
        "rope": (lambda: rope(heads, angles), 2 * heads.nbytes),
        "router": (lambda: route(scores, bias, min(12, count), 6.0), scores.nbytes),
        "expert_order": (lambda: expert_order(chosen, count * 2 // 3), 3 * chosen.nbytes),
        "expert_order of one token": (lambda: expert_order(chosen[:1], count * 2 // 3), 0),
        "cross_entropy": (lambda: cross_entropy(logits, targets), logits.nbytes),
    }
    found: Rows = []
    for name, (call, moved) in operations.items():
        calls = {"ours": with_setting("", call), "reference": with_setting("reference", call)}
        found += compare(bench, {"what": name}, calls, moved=moved)
    return found
