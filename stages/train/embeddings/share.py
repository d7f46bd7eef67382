"""Share of n-gram embeddings in the parameters of a model.

Above one half, the same number of parameters in experts gives a lower loss (Scaling Embeddings, arXiv 2601.21204, and
Engram, arXiv 2601.07372, both find a minimum below it).
"""

from __future__ import annotations

from longcat.model.bounds import parameters_of
from longcat.model.config import ModelConfig
from longcat.pipeline.errors import ConfigError


def check_share(limit: float, model: ModelConfig) -> None:
    """Raise ConfigError if n-gram embeddings are more than this share of the parameters."""
    share = model.ngram_parameters / parameters_of(model)
    if share > limit:
        raise ConfigError(
            f"n-gram embeddings are {100 * share:.1f} % of the parameters with ngram_vocab_size_ratio = "
            f"{model.ngram_vocab_size_ratio:g}, more than ngram_share = {limit:g}",
            hint=f"lower model.ngram_vocab_size_ratio, or set ngram_share: {min(1.0, share + 0.01):.2f} to train it",
        )
