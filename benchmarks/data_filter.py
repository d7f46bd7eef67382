"""The filter's four published families compared with datatrove: CPU seconds of one process, agreement of decisions.

Both tools judge the same texts with the same thresholds in the same order, in alternating batches, every family on
every document. `chained` is the cost of datatrove when a document stops at the first rule that drops it, which is
datatrove's normal mode; ours always computes all measurements. The peer runs in a separate environment:

    python -m venv peer && peer/bin/pip install "datatrove[io,processing]==0.10.1" spacy
    python benchmarks/data_filter.py FOLDER_OF_HTML --peer-python peer/bin/python [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FAMILIES = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
BATCH = 50
MAX_PAGE_BYTES = 1 << 20
# English pages have at least this share of ASCII characters; others are translated in part, or of a wrong encoding.
ENGLISH_ASCII = 0.95
# Only ours can exempt markdown; datatrove counts its markup as words and symbols.
SETTINGS: dict[str, dict[str, Any]] = {
    "gopher_repetition": {"spare_markdown": False},
    "gopher_quality": {"spare_markdown": False},
    "c4": {"lines": {"spare_markdown": False}},
    "fineweb": {"spare_markdown": False},
}


def serve_peer() -> None:
    """Run in the peer's interpreter: batches of texts on stdin, decisions and CPU seconds on stdout."""
    from datatrove.data import Document
    from datatrove.pipeline import filters

    made = {
        "gopher_repetition": filters.GopherRepetitionFilter(),
        "gopher_quality": filters.GopherQualityFilter(),
        "c4": filters.C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": filters.FineWebQualityFilter(),
    }
    for line in sys.stdin:
        answers = []
        for text in json.loads(line):
            answer = {}
            for family, judge in made.items():
                document = Document(text=text, id="")
                started = time.process_time()
                result = judge.filter(document)
                elapsed = time.process_time() - started
                reason = result[1] if isinstance(result, tuple) else None if result else "dropped"
                answer[family] = (reason, elapsed)
            answers.append(answer)
        sys.stdout.write(json.dumps(answers) + "\n")
        sys.stdout.flush()


class Peer:
    """datatrove in a child process that gets one batch at a time."""

    def __init__(self, python: Path) -> None:
        command = [str(python), str(Path(__file__).resolve()), "--as-peer", "."]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def judge(self, texts: list[str]) -> list[dict[str, Any]]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("the peer exited early; is datatrove installed in its environment?")
        return list(json.loads(answer))


class Ours:
    """All families together, as in the stage, and each separately for its decision."""

    def __init__(self) -> None:
        from longcat.stages.data.rules.config import FilterConfig
        from longcat.stages.data.rules.judge import judge

        def configure(*on: str) -> FilterConfig:
            names = ("language", "code", *FAMILIES)
            return FilterConfig.model_validate(
                {name: {"enabled": name in on, **SETTINGS.get(name, {})} for name in names}
            )

        self._judge = judge
        self._all = configure(*FAMILIES)
        self._each = {family: configure(family) for family in FAMILIES}

    def seconds(self, texts: list[str]) -> float:
        from longcat.pipeline.documents import Document

        documents = [Document("", text, "") for text in texts]
        started = time.process_time()
        for document in documents:
            self._judge(document, self._all, None)
        return time.process_time() - started

    def judge(self, text: str, family: str) -> tuple[str | None, float | None, float | None]:
        """The reason of a drop, the measured value and the threshold."""
        from longcat.pipeline.documents import Document

        config = self._each[family]
        verdict = self._judge(Document("", text, ""), config, None)
        if verdict.reason is None or "." not in verdict.reason:
            return verdict.reason, None, None
        rule = verdict.reason.partition(".")[2]
        return verdict.reason, verdict.values[f"{family}.{rule[4:]}"], float(getattr(getattr(config, family), rule))


def read_texts(folder: Path, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Main text of `count` pages, sampled with `seed`."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    from longcat.stages.data.text.language import LanguageIdentifier

    pages = sorted(p for p in folder.rglob("*.htm*") if p.is_file() and not p.is_symlink())
    random.Random(seed).shuffle(pages)
    identifier = LanguageIdentifier()
    found = 0
    for page in pages:
        data = page.read_bytes()
        if found == count:
            return
        if len(data) > MAX_PAGE_BYTES:
            continue
        tree = HTMLTree.parse_from_bytes(data, detect_encoding(data))
        text = extract_plain_text(tree, main_content=True)
        ascii_share = sum(map(str.isascii, text)) / max(1, len(text))
        if ascii_share >= ENGLISH_ASCII and identifier.predict(text)[0] == "en":
            found += 1
            yield str(page.relative_to(folder)), text


def compare(folder: Path, python: Path, count: int, seed: int) -> dict[str, Any]:
    peer, ours = Peer(python), Ours()
    documents = list(read_texts(folder, count, seed))
    ours.seconds([text for _, text in documents[:BATCH]])
    peer.judge([text for _, text in documents[:2]])
    rates: dict[str, list[float]] = {name: [] for name in ("ours", "datatrove", "datatrove chained", *FAMILIES)}
    differences = []
    dropped = {family: [0, 0] for family in FAMILIES}
    for start in range(0, len(documents), BATCH):
        batch = documents[start : start + BATCH]
        texts = [text for _, text in batch]
        rates["ours"].append(len(batch) / ours.seconds(texts))
        answers = peer.judge(texts)
        everything = sum(answer[family][1] for answer in answers for family in FAMILIES)
        rates["datatrove"].append(len(batch) / everything)
        rates["datatrove chained"].append(len(batch) / sum(map(chained, answers)))
        for family in FAMILIES:
            rates[family].append(len(batch) / sum(answer[family][1] for answer in answers))
        for (name, text), answer in zip(batch, answers, strict=True):
            for family in FAMILIES:
                reason, value, threshold = ours.judge(text, family)
                theirs = answer[family][0]
                dropped[family][0] += reason is not None
                dropped[family][1] += theirs is not None
                if (reason is None) != (theirs is None):
                    differences.append(
                        {
                            "document": name,
                            "family": family,
                            "ours": reason,
                            "value": value,
                            "threshold": threshold,
                            "datatrove": theirs,
                        }
                    )
    return {
        "documents": len(documents),
        "characters": sum(len(text) for _, text in documents),
        "documents_per_cpu_second": {name: statistics.median(values) for name, values in rates.items()},
        "dropped": {family: {"ours": mine, "datatrove": theirs} for family, (mine, theirs) in dropped.items()},
        "equal": {family: 1 - sum(d["family"] == family for d in differences) / len(documents) for family in FAMILIES},
        "differences": differences,
    }


def chained(answer: dict[str, Any]) -> float:
    """CPU seconds of the filters up to and including the first that drops the document."""
    total = 0.0
    for family in FAMILIES:
        reason, elapsed = answer[family]
        total += elapsed
        if reason is not None:
            break
    return total


def show(result: dict[str, Any]) -> None:
    rates = result["documents_per_cpu_second"]
    print(f"{result['documents']} documents, {result['characters'] / 1e6:.1f} M characters; medians of {BATCH} each\n")
    print(f"{'documents per CPU second':32} {'median':>9} {'ours is':>9}")
    for name in ("ours", "datatrove", "datatrove chained", *FAMILIES):
        label = name if name in ("ours", "datatrove", "datatrove chained") else f"  datatrove {name}"
        print(f"{label:32} {rates[name]:9.1f} {rates['ours'] / rates[name]:8.1f}x")
    print(f"\n{'family':20} {'equal':>9} {'we drop':>9} {'they drop':>10}")
    for family in FAMILIES:
        mine, theirs = result["dropped"][family]["ours"], result["dropped"][family]["datatrove"]
        print(f"{family:20} {result['equal'][family]:9.2%} {mine:9} {theirs:10}")
    print(f"\n{len(result['differences'])} differences")
    for d in result["differences"]:
        says = f"{d['ours']} ({d['value']:.4g} against {d['threshold']:g})" if d["value"] is not None else d["ours"]
        print(f"  {d['document']} {d['family']}: ours {says or 'keeps it'}; datatrove {d['datatrove'] or 'keeps it'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of HTML pages, e.g. unpacked documentation packages")
    parser.add_argument("--peer-python", type=Path, help="interpreter with datatrove installed")
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_peer:
        serve_peer()
        return
    python = options.peer_python
    if python is None or not python.is_file():
        sys.exit(
            f"no peer at {python}: install datatrove as described in the docstring of this file and pass --peer-python"
        )
    result = compare(options.folder, python, options.documents, options.seed)
    show(result)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
