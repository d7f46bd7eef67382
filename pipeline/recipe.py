"""Recipes: one YAML file that names steps, their stages, configurations and inputs; planning and running."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from longcat.pipeline.config import StageConfig, build_config
from longcat.pipeline.environment import made_otherwise
from longcat.pipeline.errors import (
    ConfigError,
    InputError,
    LongcatError,
    MissingArtifactError,
    UsageError,
)
from longcat.pipeline.plans import Plan, PlannedInput
from longcat.pipeline.recipe_file import Recipe, Step, load_recipe, nearest, with_settings
from longcat.pipeline.refs import check_name
from longcat.pipeline.runner import Outcome, Session, execute, hold_plans, plan_stage, planned_input
from longcat.pipeline.stage import Stage, registry
from longcat.pipeline.store import Store
from longcat.pipeline.validation import problems_of

__all__ = ["PlannedStep", "Recipe", "Step", "load_recipe", "plan_recipe", "run_steps", "state_of", "with_settings"]

# Environment fields named when an artifact was made in a different environment; the rest is in its manifest.
NAMED = ("code", "torch", "python", "processor", "cores", "instructions")


@dataclass(frozen=True)
class PlannedStep:
    """Planned step. `state` is cached, partial (a killed run left progress) or missing."""

    name: str
    plan: Plan
    state: str


def plan_recipe(
    recipe: Recipe, store: Store, *, first: str | None = None, last: str | None = None
) -> list[PlannedStep]:
    """Compute every step's id, in order, without running anything.

    Steps before `first` are omitted and must already be in the store; steps after `last` are omitted.

    Raises:
        ConfigError: a step's stage, configuration or inputs are wrong; names file, line and step.
        MissingArtifactError: an input is neither an earlier step nor in the store.
    """
    names = list(recipe.steps)
    for given in (first, last):
        if given is not None and given not in names:
            hint = nearest(given, names, "steps")
            raise UsageError(f"the recipe has no step {given!r}", where=recipe.file, hint=hint)
    start = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if start >= end:
        raise UsageError(f"--from {first} comes after --until {last}")
    done: dict[str, Plan] = {}
    planned: list[PlannedStep] = []
    for position, name in enumerate(names[:end]):
        plan = _plan_step(recipe, name, store, done)
        done[name] = plan
        if position >= start:
            planned.append(PlannedStep(name, plan, state_of(store, plan)))
        elif state_of(store, plan) != "cached":
            raise UsageError(f"--from {first}: the step before it, {name!r}, is not in the store", hint="run it first")
    return planned


def _plan_step(recipe: Recipe, name: str, store: Store, done: Mapping[str, Plan]) -> Plan:
    step = recipe.steps[name]
    stage = _stage(recipe, name)
    config = _config(recipe, name, stage).with_references(step.inputs)
    inputs = {
        role: [_input(recipe, name, role, reference, store, done) for reference in references]
        for role, references in step.inputs.items()
    }
    try:
        return plan_stage(stage, config, inputs, check_name(recipe.prefix + name))
    except UsageError as error:
        raise ConfigError(error.what, where=recipe.where("steps", name), hint=error.hint) from None
    except (ConfigError, InputError) as error:
        raise _placed(error, recipe.where("steps", name, "config")) from None


def _placed(error: LongcatError, place: str) -> LongcatError:
    """Prefix the error with its place in the recipe; paths relative to the current folder are completed."""
    where = error.where
    if where and isinstance(error, InputError) and "://" not in where and not Path(where).is_absolute():
        where = str(Path.cwd() / where)
    return type(error)(error.what, where=f"{place}: {where}" if where else place, hint=error.hint)


def _stage(recipe: Recipe, name: str) -> Stage:
    step = recipe.steps[name]
    if step.stage not in registry.names():
        hint = nearest(step.stage, registry.names(), "stages")
        place = recipe.where("steps", name, "stage", called=f"steps.{name}")
        raise ConfigError(f"no stage {step.stage!r}", where=place, hint=hint)
    stage = registry.get(step.stage)
    roles = [role.name for role in stage.roles]
    for role in step.inputs:
        if role not in roles:
            place = recipe.where("steps", name, "inputs", role, called=f"steps.{name}.inputs")
            raise ConfigError(f"{stage.name} has no input {role!r}", where=place, hint=nearest(role, roles, "inputs"))
    return stage


def _config(recipe: Recipe, name: str, stage: Stage) -> StageConfig:
    values = {**_seed(stage, recipe.seed), **recipe.steps[name].config}
    try:
        return build_config(stage.config, values, where="")
    except ConfigError as error:
        place = recipe.where("steps", name, "config", *_first_wrong(stage, values), called=f"steps.{name}.config")
        raise ConfigError(error.what, where=place, hint=error.hint) from None


def _first_wrong(stage: Stage, values: Mapping[str, Any]) -> tuple[Any, ...]:
    try:
        stage.config.model_validate(dict(values))
    except ValidationError as error:
        return problems_of(error)[0].keys
    return ()


def _seed(stage: Stage, seed: int) -> dict[str, int]:
    return {"seed": seed} if "seed" in stage.config.model_fields else {}


def _input(
    recipe: Recipe, name: str, role: str, reference: str, store: Store, done: Mapping[str, Plan]
) -> PlannedInput:
    if reference in done:
        plan = done[reference]
        made = store.get(plan.stage.output, plan.id)
        return PlannedInput(plan.id, plan.stage.output, plan.name, made, plan.forecast)
    place = recipe.where("steps", name, "inputs", role)
    if reference in recipe.steps:
        which = "the step itself" if reference == name else "a later step"
        raise ConfigError(f"the input {reference!r} is {which}", where=place, hint="a step can use earlier steps only")
    try:
        return planned_input(store, reference)
    except MissingArtifactError as error:
        if not error.what.startswith("no artifact"):  # the reference has the form of an artifact that is not available
            raise _placed(error, place) from None
        hint = nearest(reference, dict.fromkeys([*done, *store.refs.names()]), "known")
        what = f"{reference!r} is neither an earlier step nor an artifact in {store.root}"
        raise MissingArtifactError(what, where=place, hint=hint) from None


def state_of(store: Store, plan: Plan) -> str:
    """`cached`, `partial` (a killed run left progress) or `missing`."""
    if store.get(plan.stage.output, plan.id) is not None:
        return "cached"
    return "partial" if store.staging(plan.id).folder.is_dir() else "missing"


def made_elsewhere(store: Store, plan: Plan) -> dict[str, tuple[str, str]]:
    """Environment differences of the artifact of a plan: (there, here) by name; empty if it does not exist."""
    artifact = store.get(plan.stage.output, plan.id)
    if artifact is None:
        return {}
    return made_otherwise(artifact.manifest.code_version, artifact.manifest.environment)


def told(differences: Mapping[str, tuple[str, str]]) -> str:
    """`, made by code 0.1.0 (here 0.2.0)`: the first few differences, as the end of a line."""
    named = [f"{name} {there} (here {here or 'none'})" for name, (there, here) in differences.items() if name in NAMED]
    return f", made by {', '.join(named[:3])}" if named else ""


def run_steps(
    steps: Sequence[PlannedStep], session: Session, on_outcome: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Execute planned steps in order; cached ones are only reused and named. `on_outcome` is called for each.

    Raises:
        LongcatError: a step failed; its name is prefixed.
        NothingLeftError: a step kept no documents, so the chain ends there; its artifact is published.
    """
    outcomes: list[Outcome] = []
    hold_plans(session.store, [step.plan for step in steps])
    for step in steps:
        session.logger.info("%s: %s", step.name, _intent(session.store, step))
        try:
            outcome = execute(step.plan, session)
            outcomes.append(outcome)
            on_outcome(outcome)
            outcome.check_something_is_left()
        except LongcatError as error:
            error.where = f"step {step.name}: {error.where}" if error.where else f"step {step.name}"
            raise
    return outcomes


def _intent(store: Store, step: PlannedStep) -> str:
    if step.state == "cached":
        return f"{step.plan.id} is in the store{told(made_elsewhere(store, step.plan))}"
    verb = "resumes" if step.state == "partial" else "runs"
    return f"{step.plan.stage.name} {verb} -> {step.plan.stage.output}/{step.plan.id}"
