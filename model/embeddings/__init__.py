"""Embeddings of token ids, one module per kind."""
