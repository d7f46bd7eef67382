"""Tokenisation and packing: the encoder and the whole stage `data.pack` compared with `tokenizers` alone.

`encode` gives the ids of texts in memory as one array, starting without a cache of words for every run; `data.pack`
reads the zstd shards, encodes with the same start, compares a sample with `tokenizers`, splits, writes the token files,
builds a best-fit packing index for 2048 tokens and publishes a verified artifact. The peer, `encode_batch_fast` of
`tokenizers`, encodes the same texts in memory in the same batches with the same tokenizer, and discards the result. One
process, one thread each, interleaved; CPU seconds.

    python benchmarks/data_pack.py FOLDER [--megabytes 40] [--runs 5] [--vocab-size 16384] [--output FILE.json]
        [--profile FILE]

FOLDER contains HTML, text, markdown or reStructuredText files, for example unpacked Debian documentation packages.
`--profile` writes the profile of one run of the stage, for `python -m pstats`.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import cProfile
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import longcat.stages  # noqa: F401  registers the stages
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.data.pack import encode
from longcat.stages.data.pack.encode import BATCH_CHARACTERS, BATCH_DOCUMENTS
from longcat.stages.formats.encoding import open_encoder
from longcat.stages.formats.tokenizer import load_tokenizer

SUFFIXES = {".html", ".htm", ".txt", ".md", ".rst"}
PACK_LENGTH = 2048


def chosen(folder: Path, limit: int) -> Iterator[Path]:
    """Files of `folder` in a fixed mixed order, up to a total of `limit` bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        sys.exit(f"no HTML or text below {folder}")
    step = 977 if len(files) % 977 else 1
    taken = 0
    for number in range(len(files)):
        path = files[number * step % len(files)]
        taken += path.stat().st_size
        if taken > limit:
            return
        yield path


def cpu_seconds(action: Callable[[], Any]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def pack(session: Session, documents: Artifact, tokenizer: Artifact, seed: int) -> Artifact:
    """Run the stage; a new seed makes a new artifact with the same amount of work but another split."""
    encode._encoder.cache_clear()
    config = {"pack_lengths": [PACK_LENGTH], "seed": seed}
    return run_stage(session, "data.pack", config, {"documents": documents, "tokenizer": tokenizer}).artifact


def batches(texts: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    size = 0
    for text in texts:
        found[-1].append(text)
        size += len(text)
        if len(found[-1]) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            found.append([])
            size = 0
    return found


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    session = Session(Store(folder / "store"), engine=LocalEngine(workers=1))
    files = [str(path) for path in chosen(options.folder, int(options.megabytes * 3e6))]
    extracted = run_stage(session, "data.extract", {"input": files, "shard_bytes": 16 << 20}).artifact
    trained = {"vocab_size": options.vocab_size, "sample_bytes": 8 << 20}
    tokenizer = run_stage(session, "data.tokenizer", trained, {"documents": extracted}).artifact
    texts = [document.text for shard in document_shards(extracted) for document in read_documents(shard)]
    backend = load_tokenizer(tokenizer.path)._backend
    parts = batches(texts)

    def peer() -> None:
        for part in parts:
            backend.encode_batch_fast(part, add_special_tokens=False)

    def ours() -> None:
        encoder = open_encoder(tokenizer.path)
        assert encoder.library == "gigatoken", encoder.reason
        for part in parts:
            encoder.encode(part)

    times: dict[str, list[float]] = {"raw tokenizers": [], "encode": [], "data.pack": []}
    artifact = None
    for number in range(options.runs + 1):
        found = [cpu_seconds(peer), cpu_seconds(ours)]
        started = time.process_time()
        artifact = pack(session, extracted, tokenizer, number)
        found.append(time.process_time() - started)
        if number:  # the first round warms caches and imports
            for name, seconds in zip(times, found, strict=True):
                times[name].append(seconds)
    if options.profile:
        with cProfile.Profile() as profile:
            pack(session, extracted, tokenizer, options.runs + 1)
        profile.dump_stats(options.profile)
    assert artifact is not None
    counts = artifact.manifest.counts
    return {
        "documents": len(texts),
        "text_bytes": sum(len(text.encode()) for text in texts),
        "tokens": counts["train_tokens"] + counts["validation_tokens"],
        "packing": artifact.manifest.metrics["packing"],
        "seconds": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=float, default=40, help="approximate amount of text")
    parser.add_argument("--vocab-size", type=int, default=16384)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options, Path(scratch))
    print(f"{found['documents']} documents, {found['text_bytes'] / 1e6:.1f} MB of text, {found['tokens']} tokens")
    print(f"{'':16} {'CPU s':>8} {'min':>8} {'max':>8} {'Mtok/CPU s':>11} {'MB/CPU s':>9}")
    medians = {}
    for name, seconds in found["seconds"].items():
        middle = medians[name] = statistics.median(seconds)
        rate, size = found["tokens"] / middle / 1e6, found["text_bytes"] / middle / 1e6
        print(f"{name:16} {middle:8.3f} {min(seconds):8.3f} {max(seconds):8.3f} {rate:11.3f} {size:9.2f}")
    found["ratios"] = {name: medians["raw tokenizers"] / medians[name] for name in ("encode", "data.pack")}
    packing = found["packing"][str(PACK_LENGTH)]
    for name, ratio in found["ratios"].items():
        print(f"{name}: {ratio:.1f} times raw tokenizers (target 10)")
    print(f"best-fit packing for {PACK_LENGTH}: {packing['sequences']} sequences, waste {packing['waste']:.2%}")
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
