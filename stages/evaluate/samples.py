"""Sample continuations: every prompt once greedily and once by seeded sampling."""

from __future__ import annotations

from typing import Any

from longcat.stages.evaluate.config import SampleOptions
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.sampling import SamplingParams


def run_samples(engine: InferenceEngine, options: SampleOptions, seed: int) -> list[dict[str, Any]]:
    """One record per continuation: prompt, mode, text, tokens, finish reason; or why a prompt was skipped."""
    greedy: dict[str, Any] = {"temperature": 0.0}
    sampled: dict[str, Any] = {"temperature": options.temperature, "top_p": options.top_p, "seed": seed}
    records: list[dict[str, Any]] = []
    for prompt in options.prompts:
        ids = engine.tokenizer.encode_prompt(prompt)
        room = engine.max_length - len(ids)
        if room < 1:
            reason = f"the prompt has {len(ids)} tokens, the context holds {engine.max_length}"
            records.append({"prompt": prompt, "skipped": reason})
            continue
        for mode, settings in (("greedy", greedy), ("sampled", sampled)):
            params = SamplingParams(max_tokens=min(options.max_tokens, room), **settings)
            deltas = list(engine.generate(ids, params))
            records.append(
                {
                    "prompt": prompt,
                    "mode": mode,
                    **settings,
                    "text": "".join(delta.text for delta in deltas),
                    "tokens": sum(len(delta.token_ids) for delta in deltas),
                    "finish_reason": deltas[-1].finish_reason,
                }
            )
    return records
