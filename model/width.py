"""Same architecture at another width, for hyperparameter transfer between models.

All widths are multiplied: the residual stream, the number of heads, the inner widths of dense networks and
experts, and both latents, so that their ratios to `hidden_size` stay. The head width, the depth and the numbers of
experts are kept. Source: the proxy of LongCat-Flash (report, section 2.3.1), of which only the width is published.
"""

from fractions import Fraction
from typing import Any

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError

WIDTHS = (
    *("hidden_size", "num_attention_heads", "ffn_hidden_size", "expert_ffn_hidden_size"),
    *("q_lora_rank", "kv_lora_rank"),
)


def widened(config: ModelConfig, factor: float) -> ModelConfig:
    """`config` with every width multiplied by `factor`, which may be below one.

    Raises:
        ModelConfigError: a width would not be an integer of at least one.
    """
    exact = Fraction(factor).limit_denominator(1 << 16)
    changes: dict[str, Any] = {}
    for name in WIDTHS:
        if getattr(config, name) is None:  # no query latent
            continue
        width = getattr(config, name) * exact
        if width.denominator != 1 or width < 1:
            raise ModelConfigError(f"{name} = {getattr(config, name)} times {factor:g} is not an integer of at least 1")
        changes[name] = int(width)
    if config.attention is not None:
        changes["attention"] = _widened_attention(config, factor)
    return ModelConfig.from_dict({**config.model_dump(), **changes}, source="widened model")


def _widened_attention(config: ModelConfig, factor: float) -> dict[str, Any]:
    """`attention` with the options of every kind adapted to another width."""
    pattern = [{"kind": spec.kind, **spec.mixer.widened(spec.options, factor).model_dump()} for spec in config.mixers]
    return pattern[0] if len(pattern) == 1 else {"pattern": pattern}
