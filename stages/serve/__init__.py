"""Inference: an engine over one checkpoint, one-shot continuation, chat, and an OpenAI-compatible HTTP server."""
