"""`longcat generate`: one continuation, as text that arrives piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from longcat.pipeline.progress import Progress
from longcat.stages.serve.engine import InferenceEngine
from longcat.stages.serve.loading import Device, Dtype, load_engine
from longcat.stages.serve.sampling import SamplingParams


def generate(
    checkpoint: Path,
    prompt: str,
    params: SamplingParams | None = None,
    *,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[str]:
    """Load a checkpoint folder and continue `prompt`; the text of the continuation, without the prompt.

    The checkpoint is loaded and the prompt checked before this returns.

    Raises:
        InputError: no such checkpoint, an empty prompt, or one that is too long for the context.
        IntegrityError, ConfigError, UsageError: the checkpoint cannot be loaded as asked.
    """
    engine = load_engine(checkpoint, device=device, dtype=dtype, threads=threads, progress=progress)
    return continue_text(engine, prompt, params)


def continue_text(engine: InferenceEngine, prompt: str, params: SamplingParams | None = None) -> Iterator[str]:
    """Continue `prompt` with a loaded engine; raises as `generate`."""
    params = params or SamplingParams()
    ids = engine.tokenizer.encode(prompt)
    engine.check_prompt(ids, params.max_tokens)
    return (delta.text for delta in engine.generate(ids, params) if delta.text)
