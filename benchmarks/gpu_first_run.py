"""First run on a GPU: correctness and speed of the kernels, in under eight minutes.

Written without a GPU and never run on one yet: a section that fails is reported and does not stop the others. On one
H100 or H200 it runs the tests of the Triton kernels on the device, measures the limits of the chip (matrix products,
copies), times the kernels compared with torch and, if installed, FlashMLA and DeepGEMM, runs training steps, and
decodes one layer's operations with and without a CUDA graph. It writes `gpu_first_run.json` and `gpu_first_run.md`.
Without a GPU it exits with status 2; `--dry-run` runs tiny shapes on the CPU, to test only this script.

    python benchmarks/gpu_first_run.py [--output FOLDER] [--minutes 8] [--dry-run]

Times are medians over repetitions after a warm-up. Rates count only operations that the result needs: causal scores
that are computed and masked do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_operations import Bench, attention, experts, feed_forwards, few_rows, limits, paged_decode, small_operations

ROOT = Path(__file__).parents[1]
TESTS = ("versions", "expert_order", "grouped_mlp", "mla_paged_decode", "documents")
Rows = list[dict[str, Any]]


def machine() -> dict[str, Any]:
    """Names and versions of hardware and software."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cpu": _cpu_name(),
        "installed": {name: find_spec(name) is not None for name in ("triton", "flash_mla", "deep_gemm")},
    }
    if find_spec("triton") is not None:
        import triton

        found["triton"] = triton.__version__
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["multiprocessors"] = properties.multi_processor_count
        found["gpu_bytes"] = properties.total_memory
        found["driver"] = _output("nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv")
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def kernel_tests(bench: Bench, seconds: float) -> Rows:
    """Run the tests of the Triton versions on the GPU in a child process; they compile every kernel they use."""
    files = [str(ROOT / "tests" / "kernels" / f"test_{name}.py") for name in TESTS]
    chosen, environment = "not cpu", {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "LONGCAT_TEST_DEVICE": "cuda"}
    if bench.tiny:
        del environment["LONGCAT_TEST_DEVICE"]
        files, chosen = files[1:2], "no_tokens"
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-k", chosen, *files]
    if find_spec("xdist") is not None and not bench.tiny:
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        code, text = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        code, text = -1, f"stopped after {seconds:.0f} s\n{error.stdout or ''}"
    failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    passed = code == 0
    took = round(time.perf_counter() - started, 1)
    return [{"passed": passed, "failed": len(failed), "seconds": took, "output": "" if passed else text[-20_000:]}]


def training_steps(bench: Bench) -> Rows:
    """Loss, backward and AdamW on fixed random tokens, with our kernels and with torch's attention and experts."""
    from longcat.model.presets import load_preset
    from longcat.model.transformer import LongcatFlash

    config = load_preset("smoke" if bench.tiny else "longcat-1b")
    if not bench.tiny:
        config = config.model_copy(update={"num_layers": 4})
    batch, length = (1, 32) if bench.tiny else (8, 2048)
    found = []
    for name, setting in (("ours", ""), ("torch", "mla_attention=torch,grouped_mlp=torch,feed_forward=reference")):
        os.environ["LONGCAT_KERNELS"] = setting
        torch.manual_seed(0)
        with torch.device(bench.device):
            model = LongcatFlash(config).to(bench.dtype)
            ids = torch.randint(config.vocab_size, (batch, length + 1))
        _fill(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=bench.device.type == "cuda")
        losses: list[torch.Tensor] = []

        def step(model: Any = model, optimizer: Any = optimizer, ids: Any = ids, losses: Any = losses) -> None:
            total, counted, _ = model.loss(ids[:, :-1], ids[:, 1:])
            (total / counted).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append((total / counted).detach())

        seconds = bench.seconds(step)
        row = {"kernels": name, "tokens_per_s": batch * length / seconds, "ms": seconds * 1e3}
        parameters = sum(x.numel() for x in model.parameters())
        found.append(row | {"parameters": parameters, "first_loss": losses[0].item(), "last_loss": losses[-1].item()})
        del model, optimizer, step
        bench.empty_cache()
    os.environ["LONGCAT_KERNELS"] = ""
    return found


@torch.no_grad()
def _fill(model: torch.nn.Module) -> None:
    """Fill on the device; `model.init` computes on the CPU, which takes minutes at this size."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, 0.02)


@torch.no_grad()
def decoding(bench: Bench) -> Rows:
    """MoE, dense FFN and attention over pages, step by step: as separate launches and as one graph."""
    from longcat.kernels.expert_mixture import expert_mixture
    from longcat.kernels.feed_forward import feed_forward
    from longcat.kernels.mla_paged_decode import mla_paged_decode
    from longcat.kernels.router import route

    width, inner, expert_inner, experts, zero, topk = (32, 48, 16, 6, 3, 3) if bench.tiny else (
        6144, 12288, 2048, 64, 32, 12
    )  # fmt: skip
    heads, rotary, latent, room, page = (2, 4, 16, 64, 16) if bench.tiny else (64, 64, 512, 4096, 64)
    found = []
    for batch in (1,) if bench.tiny else (1, 32, 128):
        x = bench.randn(batch, width)
        classifier = bench.randn(experts + zero, width).float()
        bias = torch.zeros(experts + zero, device=bench.device)
        gate_up, down = bench.weight(experts, 2 * expert_inner, width), bench.weight(experts, width, expert_inner)
        dense = bench.weight(inner, width), bench.weight(inner, width), bench.weight(width, inner)
        pages = bench.randn(batch * room // page, page, latent + rotary)
        table = torch.arange(len(pages), dtype=torch.int32, device=bench.device).view(batch, -1)
        q = bench.randn(batch, 1, heads, latent + rotary)
        lengths = torch.full((batch,), room // 2, dtype=torch.int32, device=bench.device)

        def step() -> tuple[torch.Tensor, torch.Tensor]:
            routing = route(x.float() @ classifier.t(), bias, topk, 6.0)  # noqa: B023  called in this turn alone
            mixed = expert_mixture(x, routing.weights_TK, routing.experts_TK, gate_up, down)  # noqa: B023
            o = mla_paged_decode(q, pages, table, lengths, latent, 0.07)  # noqa: B023
            return mixed + feed_forward(x, *dense), o  # noqa: B023

        row: dict[str, Any] = {"batch": batch, "launched_us": bench.seconds(step) * 1e6}
        found.append(row)
        if bench.device.type == "cuda":
            row |= _graphed(bench, step, lengths)
    return found


def _graphed(bench: Bench, step: Callable[[], tuple[torch.Tensor, ...]], lengths: torch.Tensor) -> dict[str, Any]:
    """Time of a replay, and whether a replay with longer lengths gives the same result as separate launches."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    microseconds = bench.seconds(graph.replay) * 1e6
    lengths += 1
    graph.replay()
    equal = all(torch.equal(once, again) for once, again in zip(captured, step(), strict=True))
    return {"graph_us": microseconds, "graph_equals_launches": equal}


def run(bench: Bench, deadline: float) -> dict[str, Any]:
    """Rows of each section by name, or the error that ended it."""
    sections: dict[str, Callable[[], Rows]] = {
        "limits": lambda: limits(bench),
        "kernel tests": lambda: kernel_tests(bench, max(10.0, 0.5 * (deadline - time.monotonic()))),
        "attention": lambda: attention(bench),
        "experts": lambda: experts(bench),
        "experts with few rows": lambda: few_rows(bench),
        "dense network": lambda: feed_forwards(bench),
        "paged decode": lambda: paged_decode(bench),
        "small operations": lambda: small_operations(bench),
        "training step": lambda: training_steps(bench),
        "decode": lambda: decoding(bench),
    }
    found: dict[str, Any] = {}
    for name, section in sections.items():
        started = time.monotonic()
        if started > deadline:
            found[name] = {"error": "not run: out of time"}
            continue
        try:
            rows: Any = section()
        except Exception:  # the first run must find all errors
            rows = {"error": traceback.format_exc()[-4000:]}
        found[name] = rows
        bench.empty_cache()
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
        print(_table(rows), flush=True)
    return found


def _table(rows: Any) -> str:
    if isinstance(rows, dict):
        return f"```\n{rows['error']}\n```\n"
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "output"))
    lines = [keys, ["---"] * len(keys), *([_cell(row.get(key, "")) for key in keys] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")


def write_report(folder: Path, about: dict[str, Any], found: dict[str, Any], dry: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    report = {"dry_run": dry, "machine": about, "sections": found}
    (folder / "gpu_first_run.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    lines = ["# First run on a GPU", ""]
    lines += ["Tiny shapes on a CPU; the times are not meaningful.", ""] if dry else []
    lines += [f"- {key}: {value}" for key, value in about.items()]
    for name, rows in found.items():
        lines += ["", f"## {name}", "", _table(rows)]
        lines += [f"```\n{row['output']}\n```" for row in rows if row.get("output")] if isinstance(rows, list) else []
    (folder / "gpu_first_run.md").write_text("\n".join(lines), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-first-run"), help="output folder of the report")
    parser.add_argument("--minutes", type=float, default=8.0, help="no section starts after this time")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    given = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * given.minutes - (0 if given.dry_run else 45)
    about = machine()
    print(json.dumps(about, indent=2), flush=True)
    if not given.dry_run and not torch.cuda.is_available():
        print("gpu_first_run: no GPU found; --dry-run runs tiny shapes on the CPU", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    found = run(Bench(torch.device("cpu" if given.dry_run else "cuda"), tiny=given.dry_run), deadline)
    write_report(given.output, about, found, given.dry_run)
    print(f"report: {given.output / 'gpu_first_run.md'}")
    return 0 if all(_succeeded(rows) for rows in found.values()) else 1


def _succeeded(rows: Any) -> bool:
    """Whether a section ran without errors of ours and its tests passed; errors of peers are ignored."""
    if isinstance(rows, dict):
        return False
    ours = all("error" not in row for row in rows if row.get("by") == "ours")
    return ours and all(row.get("passed", True) and row.get("graph_equals_launches", True) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
