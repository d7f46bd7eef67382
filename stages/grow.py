"""Stage `grow`: makes a deeper model by stacking the layers of a trained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.stage import Context, Result, stage

if TYPE_CHECKING:
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.runner import PlannedInput
    from longcat.stages.formats.checkpoint import Start
    from longcat.stages.formats.training_state import TrainingState


class GrowConfig(StageConfig):
    """Configuration of `grow`."""

    factor: int = Field(default=2, ge=2, description="number of times the layers are stacked")
    optimizer: Literal["copy", "zero"] = Field(
        default="copy", description="moments of a stacked layer: copied from its source layer, or reset for all"
    )
    router_biases: Literal["copy", "zero"] = Field(
        default="copy", description="router biases of a stacked layer: copied from its source layer, or zero"
    )


def _check(config: GrowConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.stages.formats.architecture import architecture_of, changed_config
    from longcat.stages.formats.training_state import foreseen_state

    state = foreseen_state(inputs["checkpoint"][0])
    known = {} if state is None else {"state": state}
    model = architecture_of(inputs["checkpoint"][0])
    if model is None:
        return known
    return known | {"model": changed_config(model, {"num_layers": model.num_layers * config.factor}, "model")}


@stage("grow", revision=1, inputs={"checkpoint": "checkpoint"}, output="checkpoint", resumes=False, check=_check)
def grow(context: Context[GrowConfig]) -> Result:
    """Stack the layers of a checkpoint into a deeper model (LongCat-Flash report, section 2.3.2).

    Layers 1..n become 1..n, 1..n again and so on; embedding, final norm and output projection are copied. Counters and
    schedule position are kept, so that `train` continues from there.
    """
    from longcat.model.growth import layer_mapping, stack_layers
    from longcat.stages.formats.checkpoint import parameter_count, read_model, write_checkpoint
    from longcat.stages.formats.training_state import read_state

    config, source = context.config, context.input("checkpoint")
    model = read_model(source)
    layers = model.config.num_layers
    grown = stack_layers(model, config.factor)
    if config.router_biases == "zero":
        for bias_E in grown.router_biases():
            bias_E.zero_()
    mapping = layer_mapping(layers, config.factor)
    write_checkpoint(
        context.output,
        grown,
        _start(config, source, layers),
        _state(config, read_state(source), source, mapping),
        source,
    )
    return Result(
        counts={
            "layers_in": layers,
            "layers_out": len(mapping),
            "parameters_in": parameter_count(model.config),
            "parameters_out": parameter_count(grown.config),
        },
        metrics={"layer_mapping": mapping},
    )


def _start(config: GrowConfig, source: Artifact, layers: int) -> Start:
    """Training state of the grown model; without moments AdamW restarts, including its step count."""
    from longcat.model.growth import stack_state
    from longcat.stages.formats.checkpoint import Start, read_start

    start = read_start(source)
    moments = {} if config.optimizer == "zero" else stack_state(start.moments, layers, config.factor)
    return Start(moments, stack_state(start.average, layers, config.factor), start.balance_coefficient)


def _state(config: GrowConfig, state: TrainingState, source: Artifact, mapping: list[int]) -> TrainingState:
    growth = [*state.growth, {"checkpoint": source.id, "factor": config.factor, "layer_mapping": mapping}]
    return state.model_copy(update={"growth": growth})
