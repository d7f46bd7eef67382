"""Configuration of deduplication."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from longcat.pipeline.config import RUNTIME, StageConfig

Scope = Literal["host", "source", "all"]


class ParagraphConfig(StageConfig):
    """Removal of paragraphs repeated by many documents of a group."""

    enabled: bool = Field(default=False, description="Remove repeated paragraphs.")
    scope: Scope = Field(
        default="host",
        description="Grouping: documents of one host (or source, without a URL), of one source, or all.",
    )
    min_documents: int = Field(default=8, ge=2, description="Minimum documents of a group with the paragraph.")
    min_share: float = Field(default=0.05, ge=0, le=1, description="Minimum fraction of the group's documents with it.")


class SubstringConfig(StageConfig):
    """Removal of long substrings that occurred before, in any document."""

    enabled: bool = Field(default=False, description="Remove repeated substrings.")
    min_characters: int = Field(default=400, ge=16, le=1 << 16, description="Minimum characters of a substring.")


class DedupConfig(StageConfig):
    """MinHash-LSH over word n-grams.

    Two documents become candidates when all hashes of one band agree: at similarity s with probability
    1 - (1 - s^rows)^bands, with a steep slope around s = (1/bands)^(1/rows), 0.72 with the defaults.
    """

    near: bool = Field(default=True, description="Search for near duplicates in addition to exact ones.")
    ngram: int = Field(default=5, ge=1, le=64, description="Words per n-gram.")
    bands: int = Field(default=14, ge=1, le=512, description="Bands of the signature.")
    rows: int = Field(default=8, ge=1, le=512, description="Hashes per band; bands x rows are computed per document.")
    min_similarity: float | None = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Minimum estimated Jaccard similarity of a candidate pair; null accepts all.",
    )
    exact_jaccard: bool = Field(
        default=False,
        description="Compare candidates by all n-grams instead of the signature estimate.",
    )
    paragraphs: ParagraphConfig = Field(default=ParagraphConfig(), description="Repeated paragraphs and templates.")
    substrings: SubstringConfig = Field(default=SubstringConfig(), description="Long substrings that occurred before.")
    quality_key: str = Field(
        default="quality",
        min_length=1,
        description="Metadata key of a document's quality, a number; the highest of a group is kept.",
    )
    memory_mib: int = Field(
        default=512,
        ge=1,
        le=1 << 20,
        description="MiB per process for sorting; does not change the result.",
        json_schema_extra=RUNTIME,
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="Seed of the hash functions.")

    @property
    def num_perm(self) -> int:
        """Hashes per signature."""
        return self.bands * self.rows

    @property
    def memory_bytes(self) -> int:
        """`memory_mib` in bytes."""
        return self.memory_mib << 20
