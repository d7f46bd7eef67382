"""Configuration of decontamination."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.pipeline.printable import valid_text

# Words per passage of an item for the similarity rule.
PASSAGE_WORDS = 128
# Window of document words compared with a passage, relative to the passage length.
WINDOW_RATIO = 1.5


@dataclass(frozen=True)
class BenchmarkFile:
    """One benchmark: name, JSON lines file of items, and text fields."""

    name: str
    path: Path
    fields: tuple[str, ...]


def parse_benchmark(text: str) -> BenchmarkFile:
    """`FILE:FIELD,FIELD` or `NAME=FILE:FIELD`; the default name is the file name up to the first dot.

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
    return BenchmarkFile(valid_text(name), Path(path).expanduser(), fields)


class DecontaminateConfig(StageConfig):
    """Benchmarks to remove, and search parameters."""

    benchmarks: tuple[str, ...] = Field(
        min_length=1,
        max_length=1000,
        description="JSON lines files of items and their text fields: [NAME=]FILE:FIELD,FIELD.",
    )
    id_field: str = Field(default="id", description="Field with an item's id; default: its line number from 0.")
    ngram: int = Field(default=13, ge=2, le=64, description="Length in words of n-grams shared by item and document.")
    min_words: int = Field(
        default=5,
        ge=1,
        le=64,
        description="Minimum words of a field; one with fewer than `ngram` is searched as a whole.",
    )
    min_distinct_words: int = Field(
        default=6,
        ge=0,
        le=64,
        description="Minimum distinct words of two or more letters in an n-gram; a field without such an "
        "n-gram, such as a row of numbers, is searched as a whole.",
    )
    similar: bool = Field(default=True, description="Search for paraphrased items.")
    similarity: float = Field(
        default=0.65,
        gt=0,
        le=1,
        description="Fraction of an item's content words, by weight, that must be close together in a document.",
    )
    min_content_words: int = Field(
        default=10, ge=2, le=64, description="Minimum distinct content words of an item for similarity."
    )
    action: Literal["drop", "cut"] = Field(
        default="drop", description="Drop a document that contains an item, or cut out the match."
    )
    cut_margin_words: int = Field(
        default=40, ge=0, le=10_000, description="Words before and after a match that are also cut."
    )
    min_words_left: int = Field(
        default=50, ge=1, description="Minimum words after cutting; a document with fewer is dropped."
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
        """Parsed benchmarks, in order."""
        return [parse_benchmark(text) for text in self.benchmarks]
