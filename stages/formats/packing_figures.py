"""Figures of how documents fill sequences: padding, and documents cut by the border of a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.stages.formats.training_state import Packing


@dataclass(frozen=True)
class PackingFigures:
    """One epoch. A document fits if its tokens are at most those of a sequence and its next token, L + 1.

    padding: positions of sequences without a token to predict. fitting_tokens: tokens of documents that fit.
    cut_documents, cut_tokens: of documents that fit and yet lie in several sequences.
    """

    packing: Packing
    sequence_length: int
    sequences: int
    padding: int
    documents: int
    longer_documents: int
    fitting_tokens: int
    cut_documents: int
    cut_tokens: int

    @classmethod
    def of(
        cls,
        packing: Packing,
        sequence_length: int,
        *,
        sequences: int,
        padding: int,
        lengths: npt.NDArray[np.int64],
        in_one: npt.NDArray[np.bool_],
    ) -> PackingFigures:
        """From the tokens of every document [n], and whether it lies in one sequence [n]."""
        fits = lengths <= sequence_length + 1
        cut = fits & ~in_one
        return cls(
            packing,
            sequence_length,
            sequences,
            padding,
            documents=len(lengths),
            longer_documents=int((~fits).sum()),
            fitting_tokens=int(lengths[fits].sum()),
            cut_documents=int(cut.sum()),
            cut_tokens=int(lengths[cut].sum()),
        )

    def __add__(self, other: PackingFigures) -> PackingFigures:
        """Of both, with the packing and the sequence length of this."""
        return PackingFigures(
            self.packing,
            self.sequence_length,
            self.sequences + other.sequences,
            self.padding + other.padding,
            self.documents + other.documents,
            self.longer_documents + other.longer_documents,
            self.fitting_tokens + other.fitting_tokens,
            self.cut_documents + other.cut_documents,
            self.cut_tokens + other.cut_tokens,
        )

    @property
    def waste(self) -> float:
        """Fraction of padding."""
        return self.padding / (self.sequences * self.sequence_length)

    @property
    def cut_fraction(self) -> float:
        """Of the tokens of documents that fit, the fraction in documents that are cut."""
        return self.cut_tokens / self.fitting_tokens if self.fitting_tokens else 0.0

    def row(self) -> dict[str, Any]:
        """For the metrics of an artifact."""
        return {
            "kind": self.packing,
            "sequence_length": self.sequence_length,
            "sequences": self.sequences,
            "waste": round(self.waste, 6),
            "documents": self.documents,
            "longer_documents": self.longer_documents,
            "cut_documents": self.cut_documents,
            "cut_fraction": round(self.cut_fraction, 6),
        }

    def sentence(self) -> str:
        """For the log."""
        return (
            f"{self.packing} packing: {self.sequences:,} sequences of {self.sequence_length:,} tokens an epoch, "
            f"{self.waste:.2%} padding; of {self.documents:,} documents {self.longer_documents:,} are longer than a "
            f"sequence, {self.cut_documents:,} others are cut ({self.cut_fraction:.1%} of the tokens of those that fit)"
        )
