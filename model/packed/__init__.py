"""Modules for inference on a CPU, on packed matrices; `model.packed.prepare` puts them into a model."""
