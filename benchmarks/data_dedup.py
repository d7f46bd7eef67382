"""Deduplication: speed compared with datatrove's MinHash, recall and precision compared with brute force, peak memory.

    python benchmarks/data_dedup.py speed --corpus FOLDER --peer-python PEER/bin/python [--documents 1000] [--rounds 3]
    python benchmarks/data_dedup.py recall --corpus FOLDER [--documents 3000]
    python benchmarks/data_dedup.py memory [--documents 1000000] [--words 50]

FOLDER contains HTML pages at any depth, for example documentation packages. The peer needs a separate environment with
`pip install "datatrove[io,processing]" spacy`. Every run is a child process; CPU seconds cover the work after imports,
including reading and writing. `--output FILE.json` saves the figures.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

NGRAM, BANDS, ROWS = 5, 14, 8
EDIT_RATES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3)

PEER = """
import json, resource, sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig
source, work = sys.argv[1:]
config = MinhashConfig(hash_config=HashConfig(precision=64), n_grams=5, num_buckets=14, hashes_per_bucket=8)
stages = [
    (1, [JsonlReader(source), MinhashDedupSignature(output_folder=f"{work}/sig", config=config)]),
    (14, [MinhashDedupBuckets(input_folder=f"{work}/sig", output_folder=f"{work}/buckets", config=config)]),
    (1, [MinhashDedupCluster(input_folder=f"{work}/buckets", output_folder=f"{work}/remove", config=config)]),
    (1, [JsonlReader(source), MinhashDedupFilter(input_folder=f"{work}/remove"), JsonlWriter(f"{work}/out")]),
]
def used():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
begin = used()
for number, (tasks, pipeline) in enumerate(stages):
    LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=f"{work}/log{number}").run()
seconds = used() - begin
import gzip, pathlib
kept = sum(1 for path in pathlib.Path(work, "out").glob("*") for _ in gzip.open(path))
print(json.dumps({"cpu_seconds": seconds, "process_cpu_seconds": used(), "kept": kept}))
"""


def cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def texts_of(corpus: Path, limit: int) -> list[str]:
    """Texts of HTML pages sampled evenly from a folder, shuffled with a fixed seed."""
    from resiliparse.extract.html2text import extract_plain_text

    pages = sorted(corpus.rglob("*.htm*"))
    if not pages:
        sys.exit(f"no HTML pages below {corpus}")
    random.Random(1).shuffle(pages)
    found: list[str] = []
    for page in pages:
        text = extract_plain_text(page.read_text("utf-8", errors="replace"), main_content=True)
        if len(text) >= 200:
            found.append(text)
        if len(found) == limit:
            return found
    sys.exit(f"only {len(found)} of {limit} pages below {corpus} have 200 characters of text")


def write_shards(folder: Path, texts: Iterable[str], size: int = 100_000) -> int:
    """Write documents `d0000000`, ... in shards of `size` documents in the store's format; return their number."""
    from longcat.pipeline.documents import Document, shard_name, write_documents

    total = 0

    def shard(stream: Iterator[str]) -> Iterator[Document]:
        nonlocal total
        for text in stream:
            yield Document(f"d{total:07d}", text, "benchmark")
            total += 1
            if total % size == 0:
                return

    stream, number, before = iter(texts), 0, -1
    while total != before:
        before = total
        write_documents(folder / shard_name(number), shard(stream))
        number += 1
    (folder / shard_name(number - 1)).unlink()
    return total


def run_ours(shards: Path, work: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The stage on a folder of shards, in a child process with one worker."""
    command = [sys.executable, __file__, "child", str(shards), str(work), json.dumps(config)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def child(shards: Path, work: Path, config: dict[str, Any]) -> None:
    """Run the stage `data.dedup` over the shards and print its CPU seconds and peak memory."""
    import pyarrow.parquet  # noqa: F401

    import longcat.stages  # noqa: F401
    from longcat.pipeline.config import StageConfig
    from longcat.pipeline.engine import LocalEngine
    from longcat.pipeline.runner import Session, run_stage
    from longcat.pipeline.stage import Context, Result, Stage, registry
    from longcat.pipeline.store import Store

    def link(context: Context[StageConfig]) -> Result:
        for path in sorted(shards.iterdir()):
            (context.output / path.name).hardlink_to(path)
        return Result()

    registry.add(Stage("benchmark.documents", 1, (), "documents", StageConfig, link, None))
    session = Session(Store(work), engine=LocalEngine(workers=1))
    documents = run_stage(session, "benchmark.documents", {}).artifact
    begin, started = cpu_seconds(), time.perf_counter()
    artifact = run_stage(session, "data.dedup", config, {"documents": documents}).artifact
    print(
        json.dumps(
            {
                "cpu_seconds": cpu_seconds() - begin,
                "wall_seconds": time.perf_counter() - started,
                "process_cpu_seconds": cpu_seconds(),
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "artifact": str(artifact.path),
                "counts": artifact.manifest.counts,
                "metrics": artifact.manifest.metrics,
            }
        )
    )


def run_peer(python: str, source: Path, work: Path) -> dict[str, Any]:
    result = subprocess.run([python, "-c", PEER, str(source), str(work)], capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip() or "no message").splitlines()[-1]
        sys.exit(f"the peer {python} does not run: {reason}\nit needs: pip install 'datatrove[io,processing]' spacy")
    return dict(json.loads(result.stdout.splitlines()[-1]))


def speed(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    texts = texts_of(options.corpus, options.documents)
    write_shards(scratch / "shards", texts)
    (scratch / "peer").mkdir()
    lines = (json.dumps({"id": f"d{number:07d}", "text": text}) for number, text in enumerate(texts))
    (scratch / "peer" / "documents.jsonl").write_text("\n".join(lines) + "\n")
    rounds: dict[str, list[dict[str, Any]]] = {"longcat data dedup": [], "datatrove, four stages": []}
    for number in range(options.rounds):
        ours = run_ours(scratch / "shards", scratch / f"store{number}", {"near": True})
        rounds["longcat data dedup"].append({**ours, "kept": ours["counts"]["documents_out"]})
        if options.peer_python:
            peer = run_peer(options.peer_python, scratch / "peer", scratch / f"peer{number}")
            rounds["datatrove, four stages"].append(peer)
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {size:.1f} MB of text, medians of {options.rounds} interleaved runs")
    print(f"{'':24} {'CPU s':>8} {'docs/CPU-s':>11} {'MB/CPU-s':>9} {'with imports':>13} {'kept':>7}")
    rates = {}
    for name, runs in rounds.items():
        if not runs:
            print(f"{name:24} not run: pass --peer-python")
            continue
        used, whole = (statistics.median(run[key] for run in runs) for key in ("cpu_seconds", "process_cpu_seconds"))
        rates[name] = len(texts) / used
        kept = runs[0]["kept"]
        print(f"{name:24} {used:8.2f} {len(texts) / used:11.1f} {size / used:9.2f} {whole:11.2f} s {kept:7}")
    result = {"documents": len(texts), "megabytes": size, "rounds": rounds, "documents_per_cpu_second": rates}
    if len(rates) == 2:
        ours_rate, peer_rate = rates.values()
        print(f"ratio {ours_rate / peer_rate:.1f}")
        result["ratio"] = ours_rate / peer_rate
    return result


def edited(generator: random.Random, text: str, rate: float) -> str:
    """Replace, delete or insert words at the given rate."""
    words = text.split()
    changed: list[str] = []
    for word in words:
        if generator.random() >= rate:
            changed.append(word)
            continue
        kind = generator.randrange(3)
        if kind == 0:
            changed.append(generator.choice(words))
        elif kind == 1:
            changed.extend((word, generator.choice(words)))
    return " ".join(changed)


def true_pairs(texts: list[str], least: float) -> dict[tuple[int, int], float]:
    """All pairs whose word 5-gram sets (as strings) have a Jaccard similarity of at least `least`."""
    from longcat.stages.data.text.hashed_words import normalised_words

    numbers: dict[tuple[str, ...], int] = {}
    postings: list[list[int]] = []
    sizes = np.zeros(len(texts), dtype=np.int64)
    pairs: dict[tuple[int, int], float] = {}
    for document, text in enumerate(texts):
        words = normalised_words(text)
        grams = {tuple(words[at : at + NGRAM]) for at in range(max(len(words) - NGRAM + 1, 1))} if words else set()
        sizes[document] = len(grams)
        common: Counter[int] = Counter()
        for gram in grams:
            number = numbers.setdefault(gram, len(numbers))
            if number == len(postings):
                postings.append([])
            common.update(postings[number])
            postings[number].append(document)
        for other, shared in common.items():
            similarity = shared / (sizes[document] + sizes[other] - shared)
            if similarity >= least:
                pairs[other, document] = float(similarity)
    return pairs


def clusters_of(artifact: Path, documents: int) -> list[list[int]]:
    """Groups of two or more documents that the stage reports."""
    import pyarrow.parquet as pq

    groups: dict[int, list[int]] = {}
    for row in pq.read_table(artifact / "duplicates.parquet").to_pylist():
        kept, gone = int(row["kept_id"][1:]), int(row["dropped_id"][1:])
        groups.setdefault(kept, [kept]).append(gone)
    assert all(max(group) < documents for group in groups.values())
    return list(groups.values())


def recall(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    originals = texts_of(options.corpus, options.documents // len(EDIT_RATES))
    generator = random.Random(2)
    texts = [edited(generator, text, rate) for text in originals for rate in EDIT_RATES]
    write_shards(scratch / "shards", texts)
    truth = true_pairs(texts, 0.3)
    wanted = {pair for pair, similarity in truth.items() if similarity >= 0.8}
    print(
        f"{len(texts)} documents ({len(originals)} pages, edit rates {EDIT_RATES}), {len(wanted)} pairs of 0.8 or more"
    )
    print(f"{'':20} {'recall':>8} {'pairs joined':>13} {'>= 0.8':>8} {'>= 0.7':>8} {'>= 0.5':>8} {'dropped':>8}")
    rows = []
    for name, config in (
        ("estimated", {}),
        ("exact_jaccard", {"exact_jaccard": True}),
        ("min_similarity null", {"min_similarity": None}),
    ):
        ours = run_ours(scratch / "shards", scratch / f"store-{len(rows)}", config)
        joined = {
            (min(one, other), max(one, other))
            for group in clusters_of(Path(ours["artifact"]), len(texts))
            for at, one in enumerate(group)
            for other in group[:at]
        }
        shares = {least: sum(truth.get(pair, 0) >= least for pair in joined) / len(joined) for least in (0.8, 0.7, 0.5)}
        found = len(wanted & joined) / len(wanted)
        dropped = ours["counts"]["documents_in"] - ours["counts"]["documents_out"]
        rows.append({"name": name, "recall": found, "pairs": len(joined), "precision": shares, "dropped": dropped})
        cells = " ".join(f"{share:8.4f}" for share in shares.values())
        print(f"{name:20} {found:8.4f} {len(joined):13} {cells} {dropped:8}")
    return {"documents": len(texts), "pairs_of_0.8": len(wanted), "rows": rows}


def short_texts(documents: int, words: int) -> Iterator[str]:
    """Random texts; in every ten, one is a copy of the previous text and one a copy with one word changed."""
    generator = np.random.default_rng(3)
    vocabulary = [f"{'bcdfghjklmnp'[n % 12]}{'aeiou'[n // 12 % 5]}{n:x}" for n in range(50_000)]
    text: list[str] = []
    for number in range(documents):
        if number % 10 == 8:
            text = [*text[:-1], "changed"]
        elif number % 10 != 9:
            text = [vocabulary[at] for at in generator.integers(0, len(vocabulary), words)]
        yield " ".join(text)


def memory(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    write_shards(scratch / "shards", short_texts(options.documents, options.words), options.shard_documents)
    ours = run_ours(scratch / "shards", scratch / "store", {"memory_mib": options.memory_mib})
    rate = options.documents / ours["cpu_seconds"]
    print(f"{options.documents} documents of {options.words} words in shards of {options.shard_documents}")
    print(f"memory_mib {options.memory_mib}, peak RSS {ours['peak_rss_mib']:.0f} MiB")
    print(f"{ours['cpu_seconds']:.1f} CPU s, {rate:.0f} docs/CPU-s")
    print(f"counts {ours['counts']}")
    return {"documents": options.documents, "words": options.words, "memory_mib": options.memory_mib, **ours}


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "recall", "memory"))
    parser.add_argument("--corpus", type=Path, help="folder of HTML pages")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", help="interpreter of an environment with datatrove")
    parser.add_argument("--words", type=int, default=50)
    parser.add_argument("--shard-documents", type=int, default=100_000, help="documents per shard (memory)")
    parser.add_argument("--memory-mib", type=int, default=512)
    parser.add_argument("--scratch", type=Path, help="folder for temporary files")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.what != "memory" and options.corpus is None:
        parser.error("--corpus FOLDER is needed: a folder of HTML pages")
    options.documents = options.documents or {"speed": 1000, "recall": 3000, "memory": 1_000_000}[options.what]
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        result = {"speed": speed, "recall": recall, "memory": memory}[options.what](options, Path(scratch))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
