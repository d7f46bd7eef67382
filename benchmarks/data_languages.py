"""Share of documents that the filter's defaults keep, by language, and the reasons of the others.

A folder for each language (ISO 639 code as in `language.allowed`) holds text files. Documents are the files, or with
`--paragraphs` their paragraphs (between blank lines) of at least that many words; the language is given as allowed,
everything else is the default.

    python benchmarks/data_languages.py FOLDER [--paragraphs 50] [--limit 200] [--seed 0] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def documents(folder: Path, least: int | None) -> Iterator[tuple[str, str]]:
    """Name and text of every document of a language."""
    from longcat.stages.data.rules.view import view_text

    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        if least is None:
            yield path.name, text
            continue
        for number, paragraph in enumerate(part.strip() for part in text.split("\n\n")):
            view = view_text(paragraph)
            if view.n_words - int(view.is_symbol.sum()) >= least:
                yield f"{path.name}:{number}", paragraph


def judged(language: str, texts: list[tuple[str, str]], examples: int) -> dict[str, Any]:
    """Counts of one language."""
    from longcat.pipeline.documents import Document
    from longcat.stages.data.rules.config import FilterConfig
    from longcat.stages.data.rules.judge import judge
    from longcat.stages.data.text.language import LanguageIdentifier

    config = FilterConfig.model_validate({"language": {"allowed": [language]}})
    identifier = LanguageIdentifier()
    reasons: Counter[str] = Counter()
    dropped: list[dict[str, Any]] = []
    lines = edited = 0
    for name, text in texts:
        verdict = judge(Document(name, text, ""), config, identifier)
        if verdict.reason is None:
            edited += verdict.text != text
            lines += int(verdict.values.get("c4.lines_removed", 0))
            continue
        reasons[verdict.reason] += 1
        if len(dropped) < examples:
            dropped.append({"name": name, "reason": verdict.reason, "text": text[:200]})
    kept = len(texts) - sum(reasons.values())
    return {
        "documents": len(texts),
        "kept": kept,
        "kept_fraction": kept / len(texts) if texts else None,
        "kept_and_edited": edited,
        "lines_removed_of_kept": lines,
        "reasons": dict(reasons.most_common()),
        "examples": dropped,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder of text files for each language")
    parser.add_argument("--paragraphs", type=int, help="judge paragraphs of at least this many words instead of files")
    parser.add_argument("--limit", type=int, default=200, help="documents of a language, chosen by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=0, help="dropped documents of a language to print")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    print(f"{'language':9} {'documents':>9} {'kept':>7} {'edited':>7} {'lines':>6}  reasons")
    for folder in sorted(path for path in options.folder.iterdir() if path.is_dir()):
        texts = list(documents(folder, options.paragraphs))
        random.Random(options.seed).shuffle(texts)
        row = found[folder.name] = judged(folder.name, texts[: options.limit], options.examples)
        share = "-" if row["kept_fraction"] is None else f"{row['kept_fraction']:.1%}"
        reasons = ", ".join(f"{reason} {count}" for reason, count in row["reasons"].items())
        print(
            f"{folder.name:9} {row['documents']:9} {share:>7} {row['kept_and_edited']:7} "
            f"{row['lines_removed_of_kept']:6}  {reasons}"
        )
        for example in row["examples"]:
            print(f"    {example['name']} {example['reason']}: {example['text']!r}")
    if options.output:
        options.output.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
