"""Decontamination: recall on planted benchmark items, false alarms on clean documents, and speed.

Each plant is a benchmark item with changed line breaks, case or punctuation, inserted in the middle of a real document.
Paraphrases are items with shuffled sentences and a fraction of words replaced. Each document is also checked without a
plant: a match there is a false alarm, or an item that the document really contains (the JSON output lists each case).
Speed is measured as CPU seconds of one process for ours and for datatrove's n-gram filter, interleaved, medians;
datatrove runs under `--peer-python`, an interpreter with datatrove and spaCy installed.

    python benchmarks/data_decontaminate.py FOLDER_OF_HTML_OR_FILE.jsonl ... \
        --benchmark gsm8k_test.jsonl:question,answer --benchmark humaneval.jsonl:prompt,canonical_solution \
        [--peer-python PATH] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from longcat.stages.data.decontaminate.config import DecontaminateConfig
from longcat.stages.data.decontaminate.index import build_index
from longcat.stages.data.decontaminate.items import Part, read_parts
from longcat.stages.data.decontaminate.match import Scanner
from longcat.stages.data.decontaminate.word_stream import word_spans, words_of

PLANT_WORDS = 400
Disguise = Callable[[str, random.Random], str]

# Index and filter as users run them, but without lighteval, which only lists tasks; the indexer computes the hashes.
PEER = """
import json, sys, time
import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer
folder, *names = sys.argv[1:]
NGramsDecontIndexer._requires_dependencies = []
config = NGramsDecontConfig(n_grams=13, find_query_ngrams=True)
indexer = NGramsDecontIndexer(folder, config=config)
hashes = {value for line in open(f"{folder}/parts.jsonl") for value in indexer.compute_hashes(json.loads(line))}
np.array(sorted(hashes), dtype=config.hash_config.np_descr).tofile(f"{folder}/all.index.hashes")
step = NGramsDecontFilter(folder, config=config)
step.filter(Document(text="a b c", id="warm"))
for name in names:
    texts = [json.loads(line) for line in open(f"{folder}/{name}.jsonl")]
    started = time.process_time()
    found = [step.filter(Document(text=text, id=str(n))) is not True for n, text in enumerate(texts)]
    print(json.dumps({"name": name, "seconds": time.process_time() - started, "found": sum(found)}), flush=True)
"""


def read_texts(paths: Sequence[Path], limit: int) -> Iterator[str]:
    """Texts of JSON lines files, and of the HTML pages below folders, in a fixed mixed order; at most `limit`."""
    texts: list[str] = []
    pages = [page for path in paths if path.is_dir() for page in sorted(path.rglob("*.html"))]
    for path in paths:
        if path.is_file():
            with path.open() as stream:
                texts.extend(json.loads(line)["text"] for line in stream)
    generator = random.Random(0)
    generator.shuffle(texts)
    generator.shuffle(pages)
    texts = texts[: limit // 2 if pages else limit]
    for page in pages[: limit - len(texts)]:
        from resiliparse.extract.html2text import extract_plain_text

        texts.append(extract_plain_text(page.read_text(errors="replace"), main_content=True))
    yield from (text for text in texts if text.strip())


def rewrap(text: str, generator: random.Random) -> str:
    words = text.split()
    lines = []
    while words:
        width = generator.randint(1, 9)
        lines.append(" ".join(words[:width]))
        words = words[width:]
    return generator.choice(["\n", "\r\n", "\n\n", "\n> "]).join(lines)


def recase(text: str, generator: random.Random) -> str:
    change = generator.choice([str.upper, str.lower, str.title, str.swapcase])
    return change(rewrap(text, generator))


def delete_punctuation(text: str, generator: random.Random) -> str:
    return rewrap(re.sub(r"[^\w\s]|_", "", text), generator)


def blank_punctuation(text: str, generator: random.Random) -> str:
    return rewrap(re.sub(r"[^\w\s]|_", " ", text), generator)


def other_punctuation(text: str, generator: random.Random) -> str:
    changed = re.sub(r"[^\w\s]", lambda _: generator.choice(".,;:!?-—“”’…()"), text)
    return recase(re.sub(r" ", lambda _: generator.choice([" ", " ", " ", ", ", " - "]), changed), generator)


DISGUISES: dict[str, Disguise] = {
    "re-wrapped": rewrap,
    "re-wrapped, other case": recase,
    "re-wrapped, punctuation deleted": delete_punctuation,
    "re-wrapped, punctuation to spaces": blank_punctuation,
    "re-wrapped, other case and punctuation": other_punctuation,
}


def embed(text: str, host: str, generator: random.Random) -> str:
    """Insert the text into a few hundred words of a host document."""
    spans = word_spans(host[:20_000])
    start = generator.randrange(max(1, len(spans) - PLANT_WORDS))
    piece = spans[start : start + PLANT_WORDS]
    middle = piece[generator.randrange(len(piece))][1]
    return f"{host[piece[0][0] : middle]} {text} {host[middle : piece[-1][1]]}"


def paraphrase(text: str, rate: float, vocabulary: Sequence[str], generator: random.Random) -> str:
    sentences = re.split(r"(?<=[.?!])\s+", text)
    generator.shuffle(sentences)
    words = " ".join(sentences).split()
    return " ".join(generator.choice(vocabulary) if generator.random() < rate else word for word in words)


def plant_all(
    parts: Sequence[Part], config: DecontaminateConfig, hosts: Sequence[str], count: int
) -> list[tuple[str, int, str]]:
    """(disguise, index of the planted part, document) for each plant."""
    generator = random.Random(1)
    usable = [n for n, part in enumerate(parts) if len(words_of(part.text)) >= config.min_words]
    names = list(DISGUISES)
    plants = []
    for number in range(count):
        name, part = names[number % len(names)], generator.choice(usable)
        hidden = DISGUISES[name](parts[part].text, generator)
        plants.append((name, part, embed(hidden, generator.choice(hosts), generator)))
    return plants


def measure_plants(scanner: Scanner, plants: Sequence[tuple[str, int, str]]) -> dict[str, list[int]]:
    """Numbers of found and planted items by disguise."""
    table = {name: [0, 0] for name in DISGUISES}
    for name, part, text in plants:
        table[name][0] += any(match.part == part for match in scanner.scan(text))
        table[name][1] += 1
    return table


def measure_paraphrases(
    scanner: Scanner, parts: Sequence[Part], hosts: Sequence[str], count: int
) -> dict[str, dict[str, float]]:
    generator = random.Random(2)
    vocabulary = sorted({word for host in hosts[:200] for word in re.findall(r"[a-z]{4,}", host)})
    # Half of the words of such a field are content words.
    usable = [number for number, part in enumerate(parts) if len(words_of(part.text)) >= 30]
    table = {}
    for rate in (0.1, 0.2, 0.3, 0.4):
        rules: Counter[str] = Counter()
        for part in generator.choices(usable, k=count):
            text = embed(paraphrase(parts[part].text, rate, vocabulary, generator), generator.choice(hosts), generator)
            rules.update(match.rule for match in scanner.scan(text) if match.part == part)
        exact = (rules["ngram"] + rules["whole"]) / count
        table[f"{rate:.0%} of words replaced"] = {"by n-grams": exact, "with similarity": rules.total() / count}
    return table


def measure_false_alarms(
    scanner: Scanner, parts: Sequence[Part], hosts: Sequence[str]
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Number of documents flagged by each rule, and the list of them."""
    documents: Counter[str] = Counter()
    cases = []
    for host in hosts:
        matches = scanner.scan(host)
        documents.update({match.rule for match in matches})
        spans = word_spans(host) if matches else []
        for match in matches:
            first, last = match.spans[0]
            part = parts[match.part]
            excerpt = host[spans[first][0] : spans[last - 1][1]][:160]
            case = {"rule": match.rule, "share": round(match.share, 3), "benchmark": part.benchmark, "item": part.item}
            cases.append({**case, "field": part.field, "text": excerpt})
    return {rule: documents[rule] for rule in ("ngram", "whole", "similar")}, cases


def cpu_seconds(scanner: Scanner, texts: Sequence[str]) -> float:
    started = time.process_time()
    for text in texts:
        scanner.scan(text)
    return time.process_time() - started


def run_peer(python: str, folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    done = subprocess.run([python, "-c", PEER, str(folder), *names], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"datatrove did not run under {python}:\n{done.stderr[-2000:]}")
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def measure_speed(
    scanners: dict[str, Scanner], parts: Sequence[Part], sets: dict[str, Sequence[str]], peer: str | None, rounds: int
) -> dict[str, Any]:
    """CPU seconds of each tool over `sets["documents"]`, and documents flagged by the peer per set."""
    times: dict[str, list[float]] = {name: [] for name in scanners}
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, texts in {"parts": [part.text for part in parts], **sets}.items():
            (folder / f"{key}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
        for number in range(rounds):
            for tool, scanner in scanners.items():
                times[tool].append(cpu_seconds(scanner, sets["documents"]))
            if peer is not None:
                rows = run_peer(peer, folder, list(sets) if number == 0 else ["documents"])
                times.setdefault("datatrove", []).append(rows["documents"]["seconds"])
                found |= {key: row["found"] for key, row in rows.items()}
    characters = sum(map(len, sets["documents"]))
    return {
        "documents": len(sets["documents"]),
        "characters": characters,
        "cpu_seconds": times,
        "documents_per_cpu_second": {
            tool: len(sets["documents"]) / statistics.median(values) for tool, values in times.items()
        },
        "peer_found": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("documents", type=Path, nargs="+", help="folders of HTML, or JSON lines with a field text")
    parser.add_argument("--benchmark", action="append", required=True, metavar="FILE:FIELD,FIELD")
    parser.add_argument("--limit", type=int, default=3000, help="number of documents without plants")
    parser.add_argument("--plants", type=int, default=1000)
    parser.add_argument("--speed-documents", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", help="interpreter with datatrove[processing] and spacy installed")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    config = DecontaminateConfig(benchmarks=tuple(options.benchmark))
    exact_only = DecontaminateConfig(benchmarks=tuple(options.benchmark), similar=False)
    parts = [part for benchmark in config.parsed() for part in read_parts(benchmark, config.id_field)]
    scanner = Scanner(build_index(parts, config).index, config.similarity)
    exact = Scanner(build_index(parts, exact_only).index, config.similarity)
    hosts = list(read_texts(options.documents, options.limit))
    if not hosts:
        raise SystemExit("no documents in the input")
    print(f"{len(parts)} fields of {len(config.benchmarks)} benchmarks, {len(hosts)} documents")

    plants = plant_all(parts, config, hosts, options.plants)
    by_disguise = measure_plants(scanner, plants)
    for name, (found, count) in by_disguise.items():
        print(f"{name:42} {found:5} of {count:5} found")
    total = sum(found for found, _ in by_disguise.values())
    print(f"{'all':42} {total:5} of {len(plants):5} found ({total / len(plants):.2%})")
    paraphrases = measure_paraphrases(scanner, parts, hosts, options.plants // 4)
    for name, shares in paraphrases.items():
        print(f"sentences shuffled, {name:22} " + ", ".join(f"{key} {value:.1%}" for key, value in shares.items()))
    alarms, cases = measure_false_alarms(scanner, parts, hosts)
    print("documents without plants flagged: " + ", ".join(f"{rule} {count}" for rule, count in alarms.items()))

    sets = {"documents": hosts[: options.speed_documents], "plants": [text for _, _, text in plants]}
    tools = {"ours": scanner, "ours, n-grams alone": exact}
    speed = measure_speed(tools, parts, sets, options.peer_python, options.rounds)
    for tool, rate in speed["documents_per_cpu_second"].items():
        share = rate * speed["characters"] / speed["documents"] / 1e6
        print(f"{tool:24} {rate:8.1f} documents, {share:6.2f} million characters per CPU second")
    if options.peer_python is None:
        print("datatrove was not run: pass --peer-python")
    else:
        print(f"datatrove finds {speed['peer_found']['plants']} of {len(plants)} plants (documents flagged)")
    if options.output:
        result = {"plants": by_disguise, "paraphrases": paraphrases, "false_alarms": alarms, "cases": cases}
        options.output.write_text(json.dumps({**result, "speed": speed}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
