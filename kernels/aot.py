"""Ahead-of-time compilation of Triton kernels for chips that need not be present, and their resource usage."""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from longcat.kernels.chips import Chip

ALIGNMENT = 16  # alignment in bytes or elements of launches of real sizes


@dataclass(frozen=True)
class Launch:
    """One specialisation of a kernel at published sizes.

    arguments: the type of every non-constant argument, `*bf16`, `*i64`, `i32`, `fp32`; extra names are allowed, so that
        the kernels of one operation can share them.
    constants: the value of every constexpr.
    aligned: integer arguments divisible by 16; pointers always are.
    """

    name: str
    kernel: Any
    arguments: Mapping[str, str]
    constants: Mapping[str, Any]
    aligned: Sequence[str] = ()
    num_warps: int = 4
    num_stages: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """Resource usage of a compiled kernel: bytes of shared memory per program, registers per thread, and spills.

    tensor_memory: columns; if they exceed the chip's, Triton silently compiles only a trap.
    wgmma: number of wgmma instructions in the PTX, which keep the tensor cores of sm_90 busy.
    """

    shared: int
    registers: int
    spills: int
    tensor_memory: int = 0
    wgmma: int = 0

    def problems(self, chip: Chip) -> list[str]:
        """Description of exceeded limits; empty if it fits."""
        found = [f"{self.spills} spilled"] if self.spills else []
        if self.shared > chip.shared:
            found.append(f"{self.shared} bytes of shared memory, {chip.shared} are there")
        if self.registers > chip.registers:
            found.append(f"{self.registers} registers, {chip.registers} are there")
        if self.tensor_memory > chip.tensor_memory:
            found.append(f"{self.tensor_memory} columns of tensor memory, {chip.tensor_memory} are there")
        return found


def compile_launch(launch: Launch, chip: Chip) -> Usage:
    """Compile for `chip` and count resources. Must run in a process without `TRITON_INTERPRET`.

    Raises:
        triton.CompilationError: the kernel does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature = {name: launch.arguments.get(name, "constexpr") for name in names}
    divisible = {
        (index,): [["tt.divisibility", ALIGNMENT]]
        for index, name in enumerate(names)
        if signature[name].startswith("*") or name in launch.aligned
    }
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=dict(launch.constants), attrs=divisible)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, **launch.options}
    target = GPUTarget(chip.backend, chip.architecture, chip.warp)
    compiled = triton.compile(source, target=target, options=options)
    shared = int(compiled.metadata.shared)
    if chip.backend == "cuda":
        usage = _read_cubin(compiled.asm["cubin"], shared, compiled.metadata.tmem_size or 0)
        return replace(usage, wgmma=compiled.asm["ptx"].count("wgmma.mma_async"))
    return _read_assembly(compiled.asm["amdgcn"], shared)


def _read_cubin(cubin: bytes, shared: int, tensor_memory: int) -> Usage:
    import triton

    reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([reader, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return Usage(shared, used["REG"], used["STACK"] + used["LOCAL"], tensor_memory)


def _read_assembly(assembly: str, shared: int) -> Usage:
    used = {name: int(value) for name, value in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", assembly)}
    return Usage(shared, used["vgpr_count"], used["vgpr_spill_count"])
