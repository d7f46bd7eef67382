"""Counters of an engine, for metrics and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from longcat.stages.inference.continuation import Delta


@dataclass
class EngineStats:
    """What an engine did since its start.

    `drafted` and `accepted` count draft tokens by position: the first draft of a step, the second and so on. `steps`
    counts steps of the model and `step_tokens` their tokens.
    """

    steps: int = 0
    step_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def count(self, delta: Delta, prompt_tokens: int) -> None:
        """Count what one step added to a continuation; `prompt_tokens` are those of its prompt in the first step."""
        self.prompt_tokens += prompt_tokens
        self.generated_tokens += len(delta.token_ids)
        missing = delta.drafted - len(self.drafted)
        self.drafted += [0] * missing
        self.accepted += [0] * missing
        for place in range(delta.drafted):
            self.drafted[place] += 1
            self.accepted[place] += place < delta.accepted
