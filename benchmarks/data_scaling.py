"""Cost of a large crawl: every data stage measured on a sample and extrapolated with printed formulae.

One worker in this process runs extract, filter, dedup, tokenizer and pack over the sample, after two runs over its
first megabytes: one to warm up, one to measure the constant cost of each stage. Per stage: CPU seconds inside tasks
(shared by N workers) and outside (done by one process), bytes and files written, the scratch data that one pass writes
for the next, and peak resident memory.

    python benchmarks/data_scaling.py INPUT... [--terabytes 100] [--cores 1000] [--file-gigabytes 1]

INPUT is anything that `longcat data extract --input` accepts; use a WARC of the crawl that you want to estimate.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import contextlib
import json
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

import longcat.stages  # noqa: F401  registers the stages
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import LongcatError
from longcat.pipeline.files import folder_bytes
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.formats.special_tokens import TOKENIZER_FILES

WARM_UP_BYTES = 2 << 20
RESOLUTION_SECONDS = 0.01
SHARD_NUMBER = re.compile(r"-\d{5}\.")


@dataclass
class Measured:
    """Measurements of one stage over the sample."""

    stage: str
    task_seconds: float
    other_seconds: float
    bytes_in: int
    bytes_out: int
    documents_out: int
    scratch_bytes: int
    files_a_shard: int
    peak_bytes: int


def cpu_seconds() -> float:
    """CPU seconds of this process and its children."""
    own = psutil.Process()
    total = sum(own.cpu_times()[:4])  # user and system time, also of finished children
    for child in own.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:2])
    return total


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


class MeasuringEngine(LocalEngine):
    """Engine with one worker in this process; records CPU seconds of tasks and the scratch bytes after each pass."""

    def __init__(self, store: Store) -> None:
        super().__init__(workers=1)
        self._staging = store.root / ".staging"
        self.start()

    def start(self) -> None:
        self.task_seconds = 0.0
        self.scratch_bytes = 0

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            before = cpu_seconds()
            result = function(task)
            self.task_seconds += cpu_seconds() - before
            yield index, result
        found = sum(folder_bytes(folder) for folder in self._staging.glob("*/work"))
        self.scratch_bytes = max(self.scratch_bytes, found)


class Chain:
    """The data stages over one sample, measured one after another."""

    def __init__(self, root: Path) -> None:
        self._session = Session(Store(root), logger=logging.getLogger("benchmark"))
        self._engine = MeasuringEngine(self._session.store)
        self._session.engine = self._engine
        self.measured: list[Measured] = []

    def run(self, inputs: list[str], size: int) -> None:
        extracted = self._stage("extract", size, {"input": inputs})
        filtered = self._stage("filter", extracted.manifest.total_bytes, {}, documents=extracted)
        deduped = self._stage("dedup", filtered.manifest.total_bytes, {}, documents=filtered)
        vocabulary = {"vocab_size": 8192}
        tokenizer = self._stage("tokenizer", deduped.manifest.total_bytes, vocabulary, documents=deduped)
        packing = {"pack_lengths": [8192]}
        self._stage("pack", deduped.manifest.total_bytes, packing, documents=deduped, tokenizer=tokenizer)

    def _stage(self, name: str, bytes_in: int, config: dict[str, Any], **inputs: Artifact) -> Artifact:
        self._engine.start()
        reset_peak()
        before = cpu_seconds()
        artifact = run_stage(self._session, f"data.{name}", config, inputs).artifact
        seconds = cpu_seconds() - before
        written = [entry for entry in artifact.manifest.files if name != "pack" or entry.path not in TOKENIZER_FILES]
        found = Measured(
            stage=name,
            task_seconds=self._engine.task_seconds,
            other_seconds=max(0.0, seconds - self._engine.task_seconds),
            bytes_in=bytes_in,
            bytes_out=sum(entry.size for entry in written),
            documents_out=artifact.manifest.counts.get("documents_out", 0),
            scratch_bytes=self._engine.scratch_bytes,
            files_a_shard=len({entry.path.split("-")[0] for entry in written if SHARD_NUMBER.search(entry.path)}),
            peak_bytes=peak_bytes(),
        )
        self.measured.append(found)
        return artifact


def sample_bytes(inputs: list[str]) -> int:
    paths = [Path(item) for item in inputs]
    return sum(folder_bytes(path) if path.is_dir() else path.stat().st_size for path in paths)


def warm_up(inputs: list[str], folder: Path) -> tuple[int, list[Measured]]:
    """The start of the first file, its size, and its stages measured after all imports and loading."""
    first = Path(inputs[0])
    if first.is_dir():
        first = next(path for path in sorted(first.rglob("*.html")) if path.is_file())
    beginning = folder / first.name
    with first.open("rb") as stream:
        beginning.write_bytes(stream.read(WARM_UP_BYTES))
    for name in ("cold", "warm"):
        chain = Chain(folder / name)
        with contextlib.suppress(LongcatError):
            chain.run([str(beginning)], beginning.stat().st_size)
    return beginning.stat().st_size, chain.measured


def alone_slope(item: Measured, size: int, small: Measured | None, small_size: int) -> float:
    """CPU seconds outside tasks per byte of the crawl, without the constant cost of a stage."""
    if small is None or small_size >= size:
        return item.other_seconds / size
    return max(0.0, item.other_seconds - small.other_seconds) / (size - small_size)


def show(measured: list[Measured], size: int) -> None:
    print(f"sample: {size / 1e6:.1f} MB of input, {measured[0].documents_out} documents")
    print(
        f"{'stage':10} {'CPU s in tasks':>14} {'outside':>8} {'MB/CPU s':>9} {'docs out':>9} "
        f"{'out/crawl':>9} {'scratch/crawl':>13} {'peak MiB':>9}"
    )
    for item in measured:
        rate = item.bytes_in / item.task_seconds / 1e6 if item.task_seconds else 0.0
        print(
            f"{item.stage:10} {item.task_seconds:14.2f} {item.other_seconds:8.2f} {rate:9.2f} {item.documents_out:9} "
            f"{item.bytes_out / size:9.4f} {item.scratch_bytes / size:13.4f} {item.peak_bytes / 2**20:9.0f}"
        )


def extrapolate(
    measured: list[Measured], size: int, small: list[Measured], small_size: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Extrapolate: everything is proportional to the bytes of the crawl, except training of the tokenizer."""
    crawl = options.terabytes * 1e12
    factor = crawl / size
    files = round(options.terabytes * 1000 / options.file_gigabytes)
    print(f"\n{options.terabytes:g} TB in {files} files, {options.cores} cores; k = {factor:.4g} times the sample")
    print("core hours = k * CPU s in tasks / 3600    hours = core hours / cores    TB = k * bytes of the sample")
    print("alone hours = terabytes * slope of the CPU s outside tasks / 3600; done by one process")
    print("              (tokenizer: two more passes over all shards, 2 * core hours, plus training)")
    print(f"              {RESOLUTION_SECONDS} s of the sample are {factor * RESOLUTION_SECONDS / 3600:.3g} hours")
    print("files = crawl files * files per shard")
    print(
        f"{'stage':10} {'core hours':>11} {'hours':>8} {'alone h':>8} {'TB out':>8} "
        f"{'TB shuffle':>10} {'files':>9} {'documents':>10}"
    )
    before = {item.stage: item for item in small}
    rows = []
    for item in measured:
        core_hours = factor * item.task_seconds / 3600
        alone = crawl * alone_slope(item, size, before.get(item.stage), small_size) / 3600
        row = {
            "stage": item.stage,
            "core_hours": core_hours,
            "hours": core_hours / options.cores,
            "alone_hours": 2 * core_hours if item.stage == "tokenizer" else alone,
            "terabytes_out": 0.0 if item.stage == "tokenizer" else factor * item.bytes_out / 1e12,
            "terabytes_shuffle": factor * item.scratch_bytes / 1e12,
            "files": files * item.files_a_shard,
            "documents": factor * item.documents_out,
        }
        rows.append(row)
        print(
            f"{item.stage:10} {row['core_hours']:11.4g} {row['hours']:8.3g} {row['alone_hours']:8.3g} "
            f"{row['terabytes_out']:8.3g} {row['terabytes_shuffle']:10.3g} {row['files'] or '':>9} "
            f"{row['documents']:10.3g}"
        )
    return {"factor": factor, "files": files, "stages": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--terabytes", type=float, default=100, help="size of the crawl to extrapolate to")
    parser.add_argument("--file-gigabytes", type=float, default=1, help="size of one crawl file")
    parser.add_argument("--cores", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("peak memory is read from /proc, which this system does not have")
    size = sample_bytes(options.inputs)
    with tempfile.TemporaryDirectory() as scratch:
        small_size, small = warm_up(options.inputs, Path(scratch))
        chain = Chain(Path(scratch) / "store")
        chain.run(options.inputs, size)
    show(chain.measured, size)
    extrapolated = extrapolate(chain.measured, size, small, small_size, options)
    if options.output:
        found = {
            "sample_bytes": size,
            "measured": [asdict(item) for item in chain.measured],
            "extrapolated": extrapolated,
        }
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
