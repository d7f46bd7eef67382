"""Checks of n-gram embeddings against the tokens and the size of a model."""
