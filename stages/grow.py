"""Stage `grow`: makes a deeper model by repeating the layers of a trained one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import ConfigError, IntegrityError
from longcat.pipeline.stage import Context, Result, stage

if TYPE_CHECKING:
    from longcat.model.growth.files import GrownTensors, GrownWeights
    from longcat.model.growth.layers import Growth
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.plans import PlannedInput

MEGA = 1_000_000
_RANGE = re.compile(r"(\d{0,6}):(\d{0,6})")


class GrowConfig(StageConfig):
    """Configuration of `grow`."""

    factor: int = Field(default=2, ge=1, description="number of times the layers are repeated; 1 changes nothing")
    order: Literal["stack", "interleave"] = Field(
        default="stack",
        description="stack: all repeated layers, then all again (0 1 0 1); interleave: each one by itself (0 0 1 1)",
    )
    range: str | None = Field(
        default=None,
        description="layers to repeat, if not all: a:b for the layers a to b - 1, counted from 0; the others stay once",
    )
    moments: Literal["copy", "rescale", "zero"] = Field(
        default="copy",
        description="optimizer moments of the n copies of a layer: those of the layer; these divided by n (first "
        "moments) and n squared (second moments); or all moments of the model reset",
    )
    router_biases: Literal["copy", "zero"] = Field(
        default="copy", description="router biases of a copied layer: those of its source layer; or all zero"
    )
    depth_scale: Literal["rescale", "keep"] = Field(
        default="rescale",
        description="matrices whose initial values depend on the depth (moe_layout span and post, unless span_scale is "
        "none): multiply them by the scale at the new depth over that at the old one, or keep them",
    )

    @field_validator("range")
    @classmethod
    def _is_a_range(cls, value: str | None) -> str | None:
        if value is not None and _RANGE.fullmatch(value) is None:
            raise ValueError("expected a:b, such as 4:12, 4: or :12")
        return value

    def growth(self, num_layers: int) -> Growth:
        """Assignment of layers for a model of `num_layers`.

        Raises:
            ConfigError: the range is not a part of them.
        """
        from longcat.model.errors import ModelError
        from longcat.model.growth.layers import Growth

        start, _, stop = (self.range or ":").partition(":")
        try:
            return Growth.of(num_layers, self.factor, self.order, (int(start or 0), int(stop or num_layers)))
        except ModelError as error:
            raise ConfigError(str(error)) from None


def _check(config: GrowConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.model.errors import ModelError
    from longcat.stages.formats.architecture import architecture_of
    from longcat.stages.formats.training_state import foreseen_state

    state = foreseen_state(inputs["checkpoint"][0])
    known = {} if state is None else {"state": state}
    model = architecture_of(inputs["checkpoint"][0])
    if model is None:
        return known
    try:
        return known | {"model": config.growth(model.num_layers).config(model)}
    except ModelError as error:
        raise ConfigError(str(error)) from None


@stage("grow", revision=2, inputs={"checkpoint": "checkpoint"}, output="checkpoint", check=_check)
def grow(context: Context[GrowConfig]) -> Result:
    """Repeat the layers of a checkpoint to make a deeper model (LongCat-Flash report, section 2.3.2).

    Layers 1..n become 1..n, 1..n again and so on, or each one several times in a row; everything else is copied.
    Counters and schedule position are kept, so that `train` continues from there. Values are copied from file to file,
    bit by bit, in a few megabytes of memory.

    Raises:
        ConfigError: the range is not a part of the layers, or the grown model would be too large.
        IntegrityError: the checkpoint is incomplete or damaged.
    """
    from longcat.model.growth.files import GrownTensors, GrownWeights
    from longcat.stages.formats import checkpoint as files

    config, source = context.config, context.input("checkpoint")
    small = files.read_model_config(source)
    growth = config.growth(small.num_layers)
    files.clear_partial(context.output)
    with _told():
        weights = GrownWeights(
            source.path,
            growth,
            zero_router_biases=config.router_biases == "zero",
            rescale_depth=config.depth_scale == "rescale",
        )
        others: dict[str, GrownTensors] = {}
        if config.moments != "zero" and (path := source.path / files.OPTIMIZER_FILE).exists():
            others[files.OPTIMIZER_FILE] = GrownTensors(path, growth, config.moments, weights.depth)
        if (path := source.path / files.AVERAGE_FILE).exists():
            others[files.AVERAGE_FILE] = GrownTensors(path, growth, depth=weights.depth)
        _write(context, weights, others)
    files.copy_tokenizer(source, context.output)
    _write_state(context, source, growth)
    return Result(
        counts={
            "layers_in": small.num_layers,
            "layers_out": len(growth.layers),
            "parameters_in": files.parameter_count(small),
            "parameters_out": files.parameter_count(weights.config),
        },
        metrics={"layer_mapping": list(growth.layers)},
    )


@contextmanager
def _told() -> Iterator[None]:
    """Convert errors of the model package: the checkpoint has been checked by `Growth.config` already."""
    from longcat.model.errors import CheckpointError, ModelError

    try:
        yield
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None
    except ModelError as error:
        raise ConfigError(str(error)) from None


def _write(context: Context[GrowConfig], weights: GrownWeights, others: Mapping[str, GrownTensors]) -> None:
    total = weights.size + sum(tensors.size for tensors in others.values())
    with context.progress.task("growing", total=round(total / MEGA, 1), unit="MB") as bar:
        for name, tensors in others.items():
            (context.output / name).parent.mkdir(exist_ok=True)
            tensors.write(context.output / name)
            bar.advance(round(tensors.size / MEGA, 1))
        weights.write(context.output, advance=lambda written: bar.advance(round(written / MEGA, 1)))


def _write_state(context: Context[GrowConfig], source: Artifact, growth: Growth) -> None:
    from longcat.pipeline.files import atomic_write, pretty_json
    from longcat.stages.formats.training_state import STATE_FILE, read_state

    before = read_state(source)
    step = {"checkpoint": source.id, "factor": context.config.factor, "layer_mapping": list(growth.layers)}
    after = before.model_copy(update={"growth": [*before.growth, step]})
    atomic_write(context.output / STATE_FILE, pretty_json(after.model_dump(mode="json")))
