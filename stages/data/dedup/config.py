"""Configuration of deduplication."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from longcat.pipeline.config import RUNTIME, StageConfig

Scope = Literal["host", "source", "all"]


class ParagraphConfig(StageConfig):
    """Paragraphs that many documents of a group repeat are taken out."""

    enabled: bool = Field(default=False, description="Whether repeated paragraphs are taken out.")
    scope: Scope = Field(
        default="host",
        description="The group: documents of one host (without a URL, of one source), of one source, or all.",
    )
    min_documents: int = Field(default=8, ge=2, description="Documents of a group that must have the paragraph.")
    min_share: float = Field(default=0.05, ge=0, le=1, description="Share of the group's documents that must have it.")


class DedupConfig(StageConfig):
    """MinHash-LSH over word n-grams.

    Two documents become candidates when all hashes of one band agree: at similarity s with probability
    1 - (1 - s^rows)^bands, which rises steeply around s = (1/bands)^(1/rows), 0.72 with the defaults.
    """

    near: bool = Field(default=True, description="Whether near-duplicates are looked for beside exact ones.")
    ngram: int = Field(default=5, ge=1, le=64, description="Words in an n-gram.")
    bands: int = Field(default=14, ge=1, le=512, description="Bands of the signature.")
    rows: int = Field(default=8, ge=1, le=512, description="Hashes a band; bands x rows are computed a document.")
    min_similarity: float | None = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Least Jaccard similarity of a candidate pair, as the signatures estimate it; null takes all.",
    )
    exact_jaccard: bool = Field(
        default=False,
        description="Whether candidates are compared by all their n-grams instead of the signatures' estimate.",
    )
    paragraphs: ParagraphConfig = Field(default=ParagraphConfig(), description="Repeated paragraphs and templates.")
    quality_key: str = Field(
        default="quality",
        min_length=1,
        description="Key of the documents' metadata with their quality, a number; of a group the highest stays.",
    )
    memory_mib: int = Field(
        default=512,
        ge=1,
        le=1 << 20,
        description="MiB a process may use for sorting; does not change the result.",
        json_schema_extra=RUNTIME,
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="Seed of the hash functions.")

    @property
    def num_perm(self) -> int:
        """Hashes a signature."""
        return self.bands * self.rows

    @property
    def memory_bytes(self) -> int:
        """`memory_mib` in bytes."""
        return self.memory_mib << 20
