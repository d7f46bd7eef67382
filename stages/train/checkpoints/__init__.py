"""Resumable checkpoints of a training run."""
