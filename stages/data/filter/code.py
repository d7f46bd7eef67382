"""What the rules for source code measure (Chen et al. 2021, arXiv 2107.03374, section 3.1; The Stack's filters)."""

from __future__ import annotations

from longcat.stages.data.filter.view import ratio


def measure(text: str) -> dict[str, float]:
    """Line lengths in characters and the share of letters and digits, which tell generated or packed files."""
    lengths = [len(line) for line in text.splitlines()]
    return {
        "line_length": max(lengths, default=0),
        "mean_line_length": ratio(sum(lengths), len(lengths)),
        "alphanumeric_fraction": ratio(sum(map(str.isalnum, text)), len(text)),
    }
