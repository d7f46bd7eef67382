"""The embedding of a model, by its configuration."""

from longcat.model.config import ModelConfig
from longcat.model.embeddings.base import Embedding
from longcat.model.embeddings.ngram import NgramEmbedding
from longcat.model.embeddings.token import TokenEmbedding


def build_embedding(config: ModelConfig) -> Embedding:
    """`NgramEmbedding` with `ngram_vocab_size_ratio`, otherwise `TokenEmbedding`."""
    if config.ngram_tables is not None:
        return NgramEmbedding(config)
    return TokenEmbedding(config.vocab_size, config.hidden_size)
