"""Configuration of decontamination."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig

# A stretch of an item that the similarity rule compares as one.
PASSAGE_WORDS = 128
# Words of a document that are compared with a passage, relative to the passage's own.
WINDOW_RATIO = 1.5


@dataclass(frozen=True)
class BenchmarkFile:
    """One benchmark: its name, the JSON lines file of its items, and the fields that hold their text."""

    name: str
    path: Path
    fields: tuple[str, ...]


def parse_benchmark(text: str) -> BenchmarkFile:
    """`FILE:FIELD,FIELD` or `NAME=FILE:FIELD`; without a name the file's name up to its first dot.

    Raises:
        ValueError: a part is missing.
    """
    before, separator, listed = text.rpartition(":")
    name, named, path = before.partition("=")
    path = path if named else before
    fields = tuple(field.strip() for field in listed.split(",") if field.strip())
    name = name if named else Path(path).name.partition(".")[0]
    if not (separator and path and name and fields):
        raise ValueError(f"{text!r} is not FILE:FIELD,... or NAME=FILE:FIELD,... (gsm8k_test.jsonl:question,answer)")
    return BenchmarkFile(name, Path(path).expanduser(), fields)


class DecontaminateConfig(StageConfig):
    """Which texts must not be in the documents, and how they are looked for."""

    benchmarks: tuple[str, ...] = Field(
        min_length=1,
        max_length=1000,
        description="JSON lines files of items and the fields that hold their text: [NAME=]FILE:FIELD,FIELD.",
    )
    id_field: str = Field(
        default="id", description="Field with an item's id; where it is absent, the number of its line from 0."
    )
    ngram: int = Field(default=13, ge=2, le=64, description="Words in a row that an item and a document share.")
    min_words: int = Field(
        default=5,
        ge=1,
        le=64,
        description="Least words of a field that is looked for; one of fewer than `ngram` is looked for whole.",
    )
    min_distinct_words: int = Field(
        default=6,
        ge=0,
        le=64,
        description="Least distinct words with two letters or more in an n-gram; a field without such an "
        "n-gram, as a row of numbers is, is looked for whole.",
    )
    similar: bool = Field(default=True, description="Whether paraphrased items are looked for.")
    similarity: float = Field(
        default=0.65,
        gt=0,
        le=1,
        description="Share of an item's content words, by weight, that stand close together in a document.",
    )
    min_content_words: int = Field(
        default=10, ge=2, le=64, description="Least distinct content words of an item that similarity looks for."
    )
    action: Literal["drop", "cut"] = Field(
        default="drop", description="Drop a document that holds an item, or cut out what was found."
    )
    cut_margin_words: int = Field(
        default=40, ge=0, le=10_000, description="Words before and after a match that are cut with it."
    )
    min_words_left: int = Field(
        default=50, ge=1, description="Least words after cutting; a document with fewer is dropped."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the planted canaries.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [benchmark.name for benchmark in self.parsed()]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two benchmarks are named {repeated[0]!r}; name one: NAME=FILE:FIELD,...")
        if self.min_distinct_words > self.ngram:
            raise ValueError(f"min_distinct_words {self.min_distinct_words} is above ngram {self.ngram}")
        return self

    def parsed(self) -> list[BenchmarkFile]:
        """The benchmarks, in order."""
        return [parse_benchmark(text) for text in self.benchmarks]
