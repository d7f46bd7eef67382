"""Configuration of the coordinate check, and the compared widths."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import ConfigError
from longcat.stages.device import Device, resolve_device
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim.kinds import KindsOptions, table


class CoordCheckConfig(StageConfig):
    """Configuration of `train.coord-check`."""

    preset: str = Field(description="model preset whose widths are multiplied")
    model: dict[str, Any] = Field(default={}, description="overrides of the preset")
    scales: tuple[float, ...] = Field(
        default=(1, 2, 4),
        min_length=2,
        description="factors on the widths of the preset; 1 is the tuned width",
    )
    steps: int = Field(default=10, ge=1, description="optimizer steps per width, at a constant learning rate")
    learning_rate: float = Field(default=1e-2, gt=0, description="learning rate at the preset's width")
    sequence_length: int = Field(default=64, ge=2, description="tokens per sequence")
    batch_size: int = Field(default=4, ge=1, description="sequences per optimizer step")
    optimizer: OptimizerOptions = OptimizerOptions()
    kinds: KindsOptions = KindsOptions()
    tolerance: float = Field(
        default=0.25, gt=0, description="maximum slope of log RMS by log width that counts as constant"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of initial weights and data order")
    device: Device = Field(default="auto", description="auto: cuda if available")
    threads: int | None = Field(default=1, ge=1, description="CPU threads per run; null: all cores")

    @field_validator("optimizer")
    @classmethod
    def _rescales_nothing(cls, optimizer: OptimizerOptions) -> OptimizerOptions:
        if optimizer.weight_rescaling.enabled:
            raise ValueError("weight_rescaling is for stages that train; a coordinate check has none, remove it")
        return optimizer

    def resolved(self) -> Self:
        """Resolve the device on this machine."""
        return self.model_copy(update={"device": resolve_device(self.device)})


def width_table(config: CoordCheckConfig) -> list[dict[str, Any]]:
    """Architectures of all widths.

    Raises:
        ConfigError: the preset is unknown, a value does not fit, a width is not an integer, a kind has values but no
            parameter, or the optimizer has no rule for another width.
    """
    from longcat.model.errors import ModelConfigError
    from longcat.model.width import WIDTHS, widened
    from longcat.stages.formats.architecture import preset_architecture

    if len(set(config.scales)) < len(config.scales) or min(config.scales) <= 0:
        raise ConfigError("scales must be positive and differ from each other")
    base = preset_architecture(config.preset, config.model, None)
    config.kinds.check_fits(base)
    for scale in config.scales:
        config.optimizer.check_width(scale)
    try:
        models = [(scale, widened(base, scale)) for scale in sorted(config.scales)]
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    return [{"scale": scale} | {name: getattr(model, name) for name in WIDTHS} for scale, model in models]


def kinds_by_width(config: CoordCheckConfig) -> list[dict[str, Any]]:
    """Values by kind of parameter at all widths, with transfer; raises as `width_table`."""
    from longcat.stages.formats.architecture import preset_architecture

    base = preset_architecture(config.preset, config.model, None)
    return [
        {"hidden_size": row["hidden_size"]} | values
        for row in width_table(config)
        for values in table(
            config.kinds,
            row["scale"],
            base_std=base.initializer_range,
            learning_rate=config.learning_rate,
            base_decay=config.optimizer.weight_decay,
            update=config.optimizer.hidden_update,
        )
    ]
