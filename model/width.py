"""The same architecture at another width, as models are compared when hyperparameters move from one to the other.

All that is a width is multiplied: the residual stream, the number of heads, the inner widths of dense networks and
experts, and both latents, so that their ratios to `hidden_size` stay. The width of a head, the depth and the numbers of
experts are kept. Source: the proxy of LongCat-Flash (report, section 2.3.1), of which the width alone is published.
"""

from fractions import Fraction

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError

WIDTHS = (
    *("hidden_size", "num_attention_heads", "ffn_hidden_size", "expert_ffn_hidden_size"),
    *("q_lora_rank", "kv_lora_rank"),
)


def widened(config: ModelConfig, factor: float) -> ModelConfig:
    """`config` with every width multiplied by `factor`, which may be below one.

    Raises:
        ModelConfigError: a width would not be a whole number of at least one.
    """
    exact = Fraction(factor).limit_denominator(1 << 16)
    changes = {}
    for name in WIDTHS:
        width = getattr(config, name) * exact
        if width.denominator != 1 or width < 1:
            raise ModelConfigError(
                f"{name} = {getattr(config, name)} times {factor:g} is no whole number of at least 1"
            )
        changes[name] = int(width)
    return ModelConfig.from_dict({**config.model_dump(), **changes}, source="widened model")
