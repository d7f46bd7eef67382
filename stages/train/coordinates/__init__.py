"""Stage `train.coordinates`: whether activations keep their size as a model gets wider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.device import resolve_device
from longcat.stages.train.config import OptimizerOptions

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput


class CoordinatesConfig(StageConfig):
    """Configuration of `train.coordinates`."""

    preset: str = Field(description="model preset whose widths are multiplied")
    model: dict[str, Any] = Field(default={}, description="values that replace those of the preset")
    scales: tuple[float, ...] = Field(
        default=(1, 2, 4),
        min_length=2,
        description="factors on every width of the preset; what is tuned is the preset's own width",
    )
    steps: int = Field(default=10, ge=1, description="optimizer steps at every width, at a constant learning rate")
    learning_rate: float = Field(default=1e-2, gt=0, description="learning rate at the preset's own width")
    sequence_length: int = Field(default=64, ge=2, description="tokens a sequence")
    batch_size: int = Field(default=4, ge=1, description="sequences an optimizer step")
    optimizer: OptimizerOptions = OptimizerOptions()
    tolerance: float = Field(
        default=0.25, gt=0, description="steepest slope of log RMS by log width that still counts as level"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the initial weights and of the order of the data")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one")
    threads: int | None = Field(default=1, ge=1, description="CPU threads a run; null: all cores")

    def resolved(self) -> Self:
        """The device as it is on this machine."""
        return self.model_copy(update={"device": resolve_device(self.device)})


def width_table(config: CoordinatesConfig) -> list[dict[str, Any]]:
    """The widths of every model.

    Raises:
        ConfigError: the preset is unknown, a value does not fit, or a width is no whole number.
    """
    from longcat.model.errors import ModelConfigError
    from longcat.model.width import WIDTHS, widened
    from longcat.stages.train.architecture import preset_architecture

    if len(set(config.scales)) < len(config.scales) or min(config.scales) <= 0:
        raise ConfigError("scales must be positive and differ from each other")
    base = preset_architecture(config.preset, config.model, None)
    try:
        models = [(scale, widened(base, scale)) for scale in sorted(config.scales)]
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    return [{"scale": scale} | {name: getattr(model, name) for name in WIDTHS} for scale, model in models]


def _check(config: CoordinatesConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    width_table(config)
    return {"steps": config.steps}


@stage("train.coordinates", revision=1, inputs={"tokens": "tokens"}, output="report", check=_check)
def coordinates(context: Context[CoordinatesConfig]) -> Result:
    """Train a preset at several widths for a few steps and compare the size of its activations (coordinate check).

    Every width is trained twice, with the hyperparameters of the preset's own width and with those that transfer gives.
    Where transfer works, the root mean square of layers and logits does not depend on the width.
    """
    from longcat.stages.train.coordinates.run import check_coordinates

    return check_coordinates(context)
