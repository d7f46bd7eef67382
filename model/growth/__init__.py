"""Growth of a model in depth by repeating its layers: the assignment of layers, in memory, and on disk."""
