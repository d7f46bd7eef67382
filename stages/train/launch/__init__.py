"""A training stage over several processes and nodes, started by torchrun."""
