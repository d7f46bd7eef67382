"""YaRN (Peng et al. 2023, as in DeepSeek-V3): rotary frequencies for a longer context, without torch.

Pair i of P rotates by `theta^(-i/P)` radians per position. Pairs that turn more than `beta_fast` times within the
original context keep their frequency, those that turn less than `beta_slow` times rotate `factor` times slower, and a
ramp over the pairs lies between. Attention logits are multiplied by `(0.1 mscale ln(factor) + 1)^2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longcat.model.bounds import MAX_CONTEXT

# Two names of the same frequencies and scale, as long as mscale equals mscale_all_dim.
YARN_TYPES = ("yarn", "deepseek_yarn")


class RopeScaling(BaseModel):
    """`rope_scaling` of config.json. The frequencies depend on nothing else, in particular not on a text's length."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    rope_type: Literal["yarn"] = "yarn"
    factor: float = Field(gt=1, le=1e6, description="new context length divided by the original one")
    original_max_position_embeddings: int = Field(ge=1, le=MAX_CONTEXT, description="context length before, tokens")
    beta_fast: float = Field(default=32.0, gt=0, le=1e6, description="turns from which a pair keeps its frequency")
    beta_slow: float = Field(default=1.0, gt=0, le=1e6, description="turns up to which a pair is slowed by the factor")
    mscale: float = Field(default=1.0, gt=0, le=1e3, description="weight of ln(factor) in the scale of the logits")
    mscale_all_dim: float = Field(default=1.0, gt=0, le=1e3, description="must equal mscale")

    @model_validator(mode="before")
    @classmethod
    def _other_spellings(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = dict(values)
            if "type" in values:
                values.setdefault("rope_type", values["type"])
                if values.pop("type") != values["rope_type"]:
                    raise ValueError("type and rope_type contradict each other")
            if values.get("rope_type") in YARN_TYPES:
                values["rope_type"] = "yarn"
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mscale != self.mscale_all_dim:
            raise ValueError(
                f"mscale = {self.mscale:g} differs from mscale_all_dim = {self.mscale_all_dim:g}; rotary parts of "
                "another size than the others are not supported"
            )
        if self.beta_fast <= self.beta_slow:
            raise ValueError(f"beta_fast = {self.beta_fast:g} must exceed beta_slow = {self.beta_slow:g}")
        return self

    @property
    def logit_scale(self) -> float:
        """Factor on the attention logits."""
        return (0.1 * self.mscale * math.log(self.factor) + 1) ** 2

    def slowed(self, width: int, theta: float) -> list[float]:
        """Factor on the frequency of each of the `width / 2` pairs, from 1 (kept) down to 1 / `factor`."""
        low = max(0, math.floor(self._pair_with_turns(self.beta_fast, width, theta)))
        high: float = min(width - 1, math.ceil(self._pair_with_turns(self.beta_slow, width, theta)))
        if high == low:
            high += 1e-3
        ramp = [min(1.0, max(0.0, (pair - low) / (high - low))) for pair in range(width // 2)]
        return [1 - share + share / self.factor for share in ramp]

    def _pair_with_turns(self, turns: float, width: int, theta: float) -> float:
        """Index of the (imaginary) pair that turns so many times within the original context."""
        positions = self.original_max_position_embeddings
        return width * math.log(positions / (turns * 2 * math.pi)) / (2 * math.log(theta))
