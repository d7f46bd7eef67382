"""Packing of documents into training sequences: time, memory, padding and cut documents, by sequence length.

The lengths of the documents are log-normal (median 665 tokens, one in a hundred above 22,000), as those of web text;
their tokens are not read. Every packing runs in a process of its own, so that its peak memory is its own.

    python benchmarks/train_packing.py [--documents 1000000] [--lengths 2048 8192 32768 131072] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Lengths:
    """A token file of which only the lengths are known."""

    prefix = Path("synthetic")

    def __init__(self, documents: int) -> None:
        import numpy as np

        lengths = np.exp(np.random.default_rng(0).normal(6.5, 1.5, documents)).astype(np.int64) + 2
        self.document_offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.n_documents = documents


def measure(kind: str, documents: int, length: int) -> dict[str, Any]:
    """Figures of one epoch, CPU seconds until the first sample is known, and memory above that of the lengths."""
    from longcat.stages.formats.training_windows import SOURCES

    tokens = Lengths(documents)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    windows = SOURCES[kind](tokens, sequence_length=length, seed=0)  # type: ignore[index, arg-type]
    windows._epoch(0)
    seconds = time.process_time() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return windows.packing().row() | {"seconds": round(seconds, 2), "mib": round(memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768, 131072])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.documents, int(options.one[1]))))
        return
    rows = []
    print("sequence  packing    sequences  padding  longer  cut that fit  their tokens  CPU s   MiB")
    for length in options.lengths:
        for kind in ("joined", "best_fit"):
            command = [sys.executable, __file__, "--documents", str(options.documents), "--one", kind, str(length)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append(row)
            print(
                f"{length:8d}  {kind:9s}  {row['sequences']:9,}  {row['waste']:7.3%}  {row['longer_documents']:6,}  "
                f"{row['cut_documents']:12,}  {row['cut_fraction']:12.1%}  {row['seconds']:5.2f}  {row['mib']:4d}"
            )
    if options.output:
        options.output.write_text(json.dumps({"documents": options.documents, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
