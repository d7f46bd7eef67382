"""Every Triton kernel compiles for every GPU, without spills and within its shared memory."""

import json
import os
import subprocess
import sys

import pytest
import torch

from longcat.kernels.aot import Usage
from longcat.kernels.chips import CHIPS, chip_of
from longcat.kernels.report import operations

pytest.importorskip("triton")


def run_report(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "longcat.kernels.report", "--json", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.parametrize("operation", operations())
def test_kernels_fit_a_gpu_without_having_it(operation: str) -> None:
    finished = run_report("--operation", operation, "--chip", "sm_90")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = json.loads(finished.stdout)
    assert rows
    assert all(row["operation"] == operation and row["usage"]["registers"] > 0 for row in rows)


def test_experts_with_few_rows_keep_the_tensor_cores_busy() -> None:
    """Without swapped operands, tiles of 16 rows by 64 columns would use a slower instruction."""
    finished = run_report("--operation", "grouped_mlp", "--operation", "feed_forward", "--chip", "sm_90")
    rows = [row for row in json.loads(finished.stdout) if row["kernel"] not in ("schedule", "swiglu gradient")]
    halves = {(row["operation"], row["kernel"]): row["usage"]["wgmma"] for row in rows if "32" not in row["kernel"]}
    assert len(halves) == 16
    assert all(count > 0 for count in halves.values()), halves


def test_kernels_that_do_not_fit_are_reported() -> None:
    chip = CHIPS["gfx942"]
    assert Usage(shared=0, registers=512, spills=0).problems(chip) == []
    assert len(Usage(shared=(64 << 10) + 1, registers=513, spills=8).problems(chip)) == 3
    assert Usage(shared=0, registers=4, spills=0, tensor_memory=512).problems(CHIPS["sm_100"]) == []
    assert len(Usage(shared=0, registers=4, spills=0, tensor_memory=576).problems(CHIPS["sm_100"])) == 1


def test_the_report_refuses_the_interpreter() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "longcat.kernels.report"],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode == 2
    assert "unset it" in finished.stderr


def test_cpus_get_the_tiles_of_a_gpu() -> None:
    assert chip_of(torch.device("cpu")).name == "sm_90"
