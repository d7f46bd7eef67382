"""What a phase changes in the model before it trains: context, rotary base, YaRN, attention kinds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from longcat.model.attention.sparse_index import is_sparse
from longcat.pipeline.errors import ConfigError
from longcat.stages.formats.architecture import changed_config

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig
    from longcat.model.transformer import LongcatFlash
    from longcat.stages.extend.config import Phase
    from longcat.stages.formats.checkpoint import Start


def config_of_phase(model: ModelConfig, phase: Phase, number: int) -> ModelConfig:
    """Configuration of the model in phase `number`, from that before it.

    Raises:
        ConfigError: the phase lowers the base or the factor of YaRN, YaRN does not reach its sequences, or a value does
            not fit the model.
    """
    where = f"phases.{number}"
    theta = model.rope_theta if phase.rope_theta is None else phase.rope_theta
    if theta < model.rope_theta:
        raise ConfigError(
            f"{where}.rope_theta = {theta:g} is below the model's {model.rope_theta:g}",
            hint="raise it, or train the checkpoint with a smaller base, e.g. model.rope_theta=1e6",
        )
    changes: dict[str, Any] = {
        "rope_theta": theta,
        "max_position_embeddings": max(phase.sequence_length, model.max_position_embeddings),
    }
    if phase.rope_scaling is not None:
        before = 1.0 if model.rope_scaling is None else model.rope_scaling.factor
        if phase.rope_scaling.factor < before:
            raise ConfigError(f"{where}.rope_scaling.factor = {phase.rope_scaling.factor:g} is below {before:g}")
        changes["rope_scaling"] = phase.rope_scaling.model_dump()
    if phase.attention is not None:
        changes["attention"] = phase.attention
        if model.sparse_index is not None and not is_sparse(phase.attention):
            changes |= {"sparse_index": None, "attention_method": "MLA"}
    config = changed_config(model, changes, where)
    if phase.attention is not None:
        _check_conversion(model, config, phase, where)
    scaling = config.rope_scaling
    if scaling is not None and phase.sequence_length > (
        reached := round(scaling.factor * scaling.original_max_position_embeddings)
    ):
        raise ConfigError(
            f"{where}.sequence_length = {phase.sequence_length}, but rope_scaling reaches {reached} tokens",
            hint="raise its factor",
        )
    return config


def _check_conversion(before: ModelConfig, after: ModelConfig, phase: Phase, where: str) -> None:
    """Raise ConfigError if trained modules cannot become those of another kind, or would attend to everything."""
    for slot in range(after.mtp_slot):
        spec, kind = after.mixer(slot), before.mixer(slot).kind
        problem = spec.mixer.conversion_problem(kind, spec.options)
        if problem is not None:
            raise ConfigError(f"{where}.attention: {spec.kind}: {problem}")
        budget = spec.mixer.budget_in(after, slot)
        if budget is not None and budget >= phase.sequence_length and spec.mixer.trains_only(spec.options) is None:
            raise ConfigError(
                f"{where}.attention: {spec.kind}: tokens attend to {budget} positions, and sequences have "
                f"{phase.sequence_length}, so that all are chosen",
                hint=f"choose fewer positions, or raise {where}.sequence_length",
            )


def model_of_phase(
    model: LongcatFlash,
    config: ModelConfig,
    start: Start,
    seed: int,
    std: Mapping[str, float],
    logger: logging.Logger,
) -> tuple[LongcatFlash, Start]:
    """The model under another configuration, and its training state.

    Parameters of the same name and shape keep their values and moments; those that a new attention kind adds get
    initial values from `seed` with the deviations `std` by kind, those that it lacks are dropped. Both are logged.
    """
    import torch

    from longcat.model.init import initial_value
    from longcat.model.transformer import LongcatFlash

    before = model.state_dict()
    with torch.device("meta"):
        other = LongcatFlash(config)
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    kept = {name: value for name, value in before.items() if shapes.get(name) == value.shape}
    like = next(model.parameters())
    added = {
        name: initial_value(config, seed, name, shape, std).to(like)
        for name, shape in shapes.items()
        if name not in kept
    }
    other.load_state_dict(kept | added, assign=True)
    dropped = before.keys() - kept.keys()
    for what, names in (("new", added.keys()), ("dropped", dropped)):
        if names:
            logger.warning("conversion: %d parameters are %s, such as %s", len(names), what, min(names))
    moments = {
        name: value for name, value in start.moments.items() if name.rpartition(".")[0] not in dropped | added.keys()
    }
    average = {name: value for name, value in start.average.items() if name not in dropped}
    return other, replace(start, moments=moments, average=average and average | added)
