"""Sampling of the documents of a source by their length.

A source keeps its share of the mixture; which of its documents fill the share is decided by length:

    length_buckets    every bucket of lengths has a share of the source's tokens (reading: share), or its own share in
                      the source times a factor (reading: factor; upsampling within a source, Fu et al. 2024, "Data
                      engineering for scaling language models to 128K context")
    long_documents    a fraction of the tokens comes from long documents only, the rest from all documents as they are.
                      "Augmented with an additional 25 % of long-context data" (LongCat-Flash report, section 3.4) has
                      two readings: a quarter of all tokens (of_all), or a quarter of the rest, added to it (added)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.stages.data.mixture.document_order import Draw, DrawnPart, Numbers, Pool, interleave
from longcat.stages.formats.lengths import Unit


class Bucket(NamedTuple):
    """Documents of at least `least` tokens or bytes and fewer than `below` (None: any), and their share of the draw."""

    least: int
    below: int | None
    share: float
    unit: Unit = "tokens"

    def chosen(self, pool: Pool, documents: Numbers) -> Numbers:
        """Those of `documents` that are in the bucket."""
        lengths = sizes_of(pool, self.unit)[documents]
        inside = lengths >= self.least
        return documents[inside if self.below is None else inside & (lengths < self.below)]

    @property
    def name(self) -> str:
        if self.below is None:
            return f"of {self.least} {self.unit} or more"
        return f"of {self.least} to {self.below - 1} {self.unit}"


class LengthBuckets(StageConfig):
    """Weights of buckets of document length; `remedy`: what helps if a source has no document of a bucket."""

    remedy: ClassVar[str] = "change the bounds, give the bucket no weight, or set length_buckets.reading=factor"

    bounds: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        min_length=1, max_length=64, description="Borders between buckets, rising: n borders, n + 1 buckets."
    )
    unit: Unit = Field(default="tokens", description="Unit of the borders: tokens, or bytes of text.")
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(description="Weight of each bucket, shortest first.")
    reading: Literal["share", "factor"] = Field(
        default="share",
        description="What a weight is: the relative share of a source's tokens, or a factor on the share that the "
        "bucket has in the source.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(high <= low for low, high in pairwise(self.bounds)):
            raise ValueError("bounds must rise")
        if len(self.weights) != len(self.bounds) + 1:
            raise ValueError(
                f"{len(self.bounds)} bounds make {len(self.bounds) + 1} buckets, there are {len(self.weights)} weights"
            )
        if not sum(self.weights):
            raise ValueError("all weights are zero")
        return self

    def buckets(self, pool: Pool, chosen: Numbers) -> list[Bucket]:
        """Buckets with their shares of a draw from some documents; empty if all of them have the weight zero."""
        borders = pairwise((0, *self.bounds, None))
        found = [
            Bucket(low or 0, high, weight, self.unit) for (low, high), weight in zip(borders, self.weights, strict=True)
        ]
        if self.reading == "factor":
            found = [part._replace(share=part.share * pool.size(part.chosen(pool, chosen))) for part in found]
        total = sum(part.share for part in found)
        return [part._replace(share=part.share / total) for part in found if part.share]


class LongDocuments(StageConfig):
    """More long documents than a source has; `remedy` as of `LengthBuckets`."""

    remedy: ClassVar[str] = "lower long_documents.min_tokens, or give the source no weight"

    min_tokens: int = Field(ge=2, description="Tokens from which on a document is long.")
    fraction: float = Field(default=0.25, ge=0, le=1, description="Fraction that comes from long documents only.")
    reading: Literal["of_all", "added"] = Field(
        default="of_all",
        description="What the fraction refers to: all tokens of a source, or the others, to which long ones are added "
        "(0.25 added: a fifth of all).",
    )

    def buckets(self, pool: Pool, chosen: Numbers) -> list[Bucket]:
        """All documents, and the long ones by themselves."""
        share = self.fraction / (1 + self.fraction) if self.reading == "added" else self.fraction
        parts = [Bucket(0, None, 1 - share), Bucket(self.min_tokens, None, share)]
        return [part for part in parts if part.share]


Lengths = LengthBuckets | LongDocuments


def needs_bytes(lengths: Lengths | None) -> bool:
    """Whether a kind of sampling measures documents in bytes."""
    return isinstance(lengths, LengthBuckets) and lengths.unit == "bytes"


def merged(pool: Pool, buckets: Sequence[Bucket], draws: Sequence[Draw]) -> Draw:
    """One draw of those from every bucket, which are spread evenly over it."""
    _, documents = interleave(draws)
    parts = tuple(
        DrawnPart(part.least, part.below, part.share, len(own.documents), own.total, part.unit)
        for part, own in zip(buckets, draws, strict=True)
    )
    return Draw(documents, pool.lengths[documents], parts)


def part_rows(named: dict[str, Any], drawn: Draw) -> list[dict[str, Any]]:
    """Rows of the report: what was drawn from every bucket of a source."""
    return [
        {
            **named,
            "from": part.least,
            **({} if part.below is None else {"to": part.below - 1}),
            **({} if part.unit == "tokens" else {"unit": part.unit}),
            "tokens": part.tokens,
            "documents": part.documents,
            "share_wanted": round(part.share, 6),
            "share": round(part.tokens / max(1, drawn.total), 6),
        }
        for part in drawn.parts
    ]


def longest(pool: Pool, chosen: Numbers, unit: Unit) -> int:
    """Tokens or bytes of the longest of some documents; 0 if there are none."""
    return int(np.max(sizes_of(pool, unit)[chosen], initial=0))


def sizes_of(pool: Pool, unit: Unit) -> Numbers:
    """Tokens of every document of a pool, or bytes of its text."""
    if unit == "tokens":
        return pool.lengths
    if pool.text_bytes is None:
        raise ValueError("the pool has no bytes")
    return pool.text_bytes
