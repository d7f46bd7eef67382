"""`longcat generate`: continuations of one prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from longcat.pipeline.progress import Progress
from longcat.stages.device import Device, Dtype
from longcat.stages.inference.batch import Choice
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.sampling import SamplingParams


def generate(
    checkpoint: Path,
    prompt: str,
    params: SamplingParams | None = None,
    *,
    clip: bool = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    options: EngineOptions | None = None,
) -> Iterator[str]:
    """Load a checkpoint folder and continue `prompt`; see `continue_text`.

    Raises:
        InputError: no such checkpoint, or as `continue_text`.
        IntegrityError, ConfigError, UsageError: the checkpoint cannot be loaded as asked.
    """
    engine = load_engine(checkpoint, device=device, dtype=dtype, threads=threads, progress=progress, options=options)
    return continue_text(engine, prompt, params, clip=clip)


def continue_text(
    engine: InferenceEngine, prompt: str, params: SamplingParams | None = None, *, clip: bool = False
) -> Iterator[str]:
    """Continue `prompt`; yields the text of the continuation, without the prompt. The prompt is checked at once.

    `clip` shortens `max_tokens` to what the context has room for; without it, too many are refused.

    Raises:
        InputError: an empty prompt, or one that is too long for the context.
    """
    ids, params = _checked(engine, prompt, params or SamplingParams(), clip=clip)
    return (delta.text for delta in engine.generate(ids, params) if delta.text)


def complete(
    engine: InferenceEngine, prompt: str, params: SamplingParams, *, choices: int = 1, clip: bool = False
) -> tuple[int, list[Choice]]:
    """Number of tokens of `prompt`, and its continuations; see `continue_text`."""
    ids, params = _checked(engine, prompt, params, clip=clip)
    found = [Choice() for _ in range(choices)]
    for delta in engine.generate(ids, params, choices=choices):
        found[delta.choice].add(delta)
    return len(ids), found


def _checked(
    engine: InferenceEngine, prompt: str, params: SamplingParams, *, clip: bool
) -> tuple[list[int], SamplingParams]:
    ids = engine.tokenizer.encode_prompt(prompt)
    if clip:
        # At least one, so that a prompt without room is refused with its length.
        params = replace(params, max_tokens=max(1, min(params.max_tokens, engine.max_length - len(ids))))
    engine.check_prompt(ids, params.max_tokens)
    return ids, params
