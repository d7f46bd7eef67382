"""Pre-tokenisation of the tokenizers trained here, and the nearest expression that gigatoken has a scanner for."""

from __future__ import annotations

# LongCat-Flash's report (arXiv 2509.01322, section 2.4) uses GPT-4's pre-tokenisation with separate CJK segmentation
# and single-digit tokens; its expression is not published, this is ours.
SPLIT = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"\p{Han}+",
        r"[\p{Hiragana}\p{Katakana}ー]+",
        r"[^\r\n\p{L}\p{M}\p{N}]?(?:(?![\p{Han}\p{Hiragana}\p{Katakana}])[\p{L}\p{M}])+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

# That of Qwen 3.5. Without Han and kana it gives the same pieces: that its letters may follow a mark makes no
# difference, as they contain marks.
NEAREST = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
