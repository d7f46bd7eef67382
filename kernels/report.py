"""`python -m longcat.kernels.report`: compiles every Triton kernel for every chip and reports resource usage.

Exits with 1 if a kernel does not compile, spills registers or exceeds the chip's limits. Needs no GPU.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from longcat.kernels.aot import Launch, Usage, compile_launch
from longcat.kernels.chips import CHIPS, Chip


@dataclass(frozen=True)
class Row:
    """One kernel on one chip; `usage` is None if it does not compile, with the reason in `problems`."""

    operation: str
    kernel: str
    chip: str
    usage: Usage | None
    seconds: float
    problems: list[str]


def operations() -> list[str]:
    """The operations that have a Triton version."""
    folders = sorted(path.name for path in Path(__file__).parent.iterdir() if path.is_dir())
    return [name for name in folders if (Path(__file__).parent / name / "triton.py").is_file()]


def launches(operation: str, chip: Chip) -> list[Launch]:
    """The launches of an operation as it would make them on `chip`."""
    module: Any = import_module(f"longcat.kernels.{operation}.triton")
    return list(module.launches(chip))


def measure(operation: str, chip_name: str, index: int) -> Row:
    """Compile one launch; an error of the compiler becomes a row."""
    chip = CHIPS[chip_name]
    launch = launches(operation, chip)[index]
    started = time.perf_counter()
    try:
        usage: Usage | None = compile_launch(launch, chip)
    except Exception as error:  # the compiler raises whatever its passes raise, and one kernel must not end the report
        usage, problems = None, [f"does not compile: {type(error).__name__}: {str(error).splitlines()[-1]}"]
    else:
        problems = usage.problems(chip) if usage else []
    return Row(operation, launch.name, chip_name, usage, round(time.perf_counter() - started, 3), problems)


def report(chosen: Sequence[str], chips: Sequence[str], workers: int) -> Iterator[Row]:
    """The rows of the chosen operations and chips, in order."""
    jobs = [
        (operation, chip, index)
        for operation in chosen
        for chip in chips
        for index in range(len(launches(operation, CHIPS[chip])))
    ]
    os.environ["PYTHONSAFEPATH"] = "1"  # the workers import nothing of the current folder
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(measure, *zip(*jobs, strict=True)) if jobs else ()


def print_table(rows: Sequence[Row]) -> None:
    """Format the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Triton kernels, compiled ahead of time", title_justify="left")
    for heading in ("operation", "kernel", "chip"):
        table.add_column(heading, overflow="fold")
    for heading in ("registers", "spills", "wgmma", "shared KiB", "of", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in rows:
        usage, limit = row.usage, CHIPS[row.chip].shared / 1024
        figures = (
            [""] * 4
            if usage is None
            else [f"{usage.registers}", f"{usage.spills}", f"{usage.wgmma}", f"{usage.shared / 1024:.1f}"]
        )
        verdict = "[red]" + "; ".join(row.problems) if row.problems else "fits"
        table.add_row(row.operation, row.kernel, row.chip, *figures, f"{limit:.0f}", f"{row.seconds:.1f}", verdict)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m longcat.kernels.report", description=__doc__)
    parser.add_argument("--operation", action="append", choices=operations(), help="only this one; may be repeated")
    parser.add_argument("--chip", action="append", choices=tuple(CHIPS), help="only this one; may be repeated")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="kernels compiled at a time")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    given = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 makes kernels interpreted; unset it to compile them")
    if find_spec("triton") is None:
        parser.error("Triton is not installed: pip install 'longcat-cli[gpu]'")
    rows = list(report(given.operation or operations(), given.chip or tuple(CHIPS), given.workers))
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_table(rows)
    return 1 if any(row.problems for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
