"""Device of kernel tests: the CPU with Triton's interpreter, or the GPU given by LONGCAT_TEST_DEVICE.

On a GPU only tests of Triton versions run, as in `benchmarks/gpu_first_run.py`: CPU versions refuse a GPU.
"""

import os

import pytest
import torch

DEVICE = torch.device(os.environ.get("LONGCAT_TEST_DEVICE", "cpu"))
on_the_processor = pytest.mark.skipif(DEVICE.type != "cpu", reason="tests the interpreter, or values that a GPU hides")
