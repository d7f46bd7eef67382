"""Token mixers, one module per kind; `model.mixers` registers their names."""
