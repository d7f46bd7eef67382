"""Planted canaries: disguised items that must be found, which validates an empty result."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longcat.pipeline.documents import Document, read_documents, write_documents
from longcat.pipeline.errors import LongcatError
from longcat.stages.data.decontaminate.config import DecontaminateConfig
from longcat.stages.data.decontaminate.index import Indexed, rule_of
from longcat.stages.data.decontaminate.items import Part
from longcat.stages.data.decontaminate.match import RULES
from longcat.stages.data.decontaminate.word_stream import words_of

FILLER = (
    "The harbour wall was rebuilt after the winter of the great storm, and since then the fishing boats lie behind "
    "it in two rows. On market days the street above fills with stalls that sell rope, lamps and smoked eel."
)
_SEPARATORS = (" ", " ", "\n", "\n", ", ", " - ", "\n> ", "\n\n", " ... ", "; ")
# Shorter than any useful n-gram, so that none survives swapping neighbours.
_SWAPPED_WORDS = 4


@dataclass(frozen=True)
class Canary:
    """A document that contains part `part` in a form that `rule` must find."""

    part: int
    rule: str
    document: Document


def make_canaries(parts: Sequence[Part], indexed: Indexed, config: DecontaminateConfig) -> list[Canary]:
    """One canary per benchmark and applicable rule, chosen by the seed."""
    candidates: dict[tuple[str, str], list[int]] = {}
    for number, (part, rules) in enumerate(zip(parts, indexed.rules, strict=True)):
        for rule in rules:
            candidates.setdefault((part.benchmark, rule), []).append(number)
    canaries = []
    for (benchmark, rule), numbers in candidates.items():
        generator = random.Random(f"{config.seed} {benchmark} {rule}")
        generator.shuffle(numbers)
        for number in numbers:
            hidden = disguise(parts[number].text, rule, config, generator)
            if hidden is not None:
                text = f"{FILLER}\n{hidden}\n{FILLER}"
                canaries.append(Canary(number, rule, Document(f"canary-{benchmark}-{rule}", text, "canary")))
                break
    return canaries


def disguise(text: str, rule: str, config: DecontaminateConfig, generator: random.Random) -> str | None:
    """Words of a text with other line breaks, case and punctuation; for `similar` also in another order.

    None if the rule only searches the text without punctuation, or the reordering keeps an n-gram intact.
    """
    words = words_of(text)
    if rule == "similar":
        size = min(config.ngram, len(words))
        swapped = _swap(words)
        if not _ngrams(words, size).isdisjoint(_ngrams(swapped, size)):
            return None
        words = swapped
    elif rule_of(words, config) != rule:
        return None
    cased = [word.upper() if generator.random() < 0.5 else word for word in words]
    hidden = "".join(word.decode("utf-8", "replace") + generator.choice(_SEPARATORS) for word in cased)
    # In a script without blanks, words joined over a line end may be cut at another place.
    return hidden if words_of(hidden) == words else "; ".join(word.decode("utf-8", "replace") for word in cased)


def _swap(words: list[bytes]) -> list[bytes]:
    """Swap neighbouring word groups."""
    runs = [words[at : at + _SWAPPED_WORDS] for at in range(0, len(words), _SWAPPED_WORDS)]
    for at in range(0, len(runs) - 1, 2):
        runs[at], runs[at + 1] = runs[at + 1], runs[at]
    return [word for run in runs for word in run]


def _ngrams(words: list[bytes], size: int) -> set[tuple[bytes, ...]]:
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


def write_canaries(path: Path, canaries: Sequence[Canary]) -> None:
    """Write the canaries as an ordinary shard."""
    write_documents(path, (canary.document for canary in canaries))


def check_canaries(canaries: Sequence[Canary], findings: Path, output: Path) -> None:
    """Compare the findings in the canary shard with its content.

    Raises:
        LongcatError: a canary was not found by its rule, or the output still contains its item.
    """
    import pyarrow.parquet as pq

    found = {(row["document"], row["part"], row["rule"]) for row in pq.read_table(findings).to_pylist()}
    left = {document.id: document.text for document in read_documents(output)}
    for canary in canaries:
        name = canary.document.id
        if (name, canary.part, canary.rule) not in found:
            raise LongcatError(
                f"planted item {canary.part} was not found by the rule {canary.rule!r}, so an empty result "
                "would not be valid",
                where=name,
                hint="change ngram, similarity or min_distinct_words",
            )
        if left.get(name) == canary.document.text:
            raise LongcatError("a planted item was found but not removed", where=name)


def rules_of(canaries: Sequence[Canary], parts: Sequence[Part], benchmark: str) -> list[str]:
    """Rules validated by a canary of this benchmark."""
    proved = {canary.rule for canary in canaries if parts[canary.part].benchmark == benchmark}
    return [rule for rule in RULES if rule in proved]
