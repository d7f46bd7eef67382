"""Recipes: one YAML file that names steps, their stages, configurations and inputs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from longcat.pipeline.config import build_config, load_mapping, merge
from longcat.pipeline.errors import ConfigError, UsageError
from longcat.pipeline.refs import NAME_PATTERN, check_name
from longcat.pipeline.runner import Outcome, Plan, PlannedInput, Session, execute, hold_plans, plan_stage, planned_input
from longcat.pipeline.stage import Stage, registry
from longcat.pipeline.store import Store


class Step(BaseModel):
    """One step of a recipe: a stage, its configuration, and its inputs by role.

    An input is the name of an earlier step or a reference to an artifact in the store.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, list[str]] = Field(default_factory=dict)

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {role: [given] if isinstance(given, str) else given for role, given in value.items()}


class Recipe(BaseModel):
    """A chain of steps.

    Each step's artifact is published as `<prefix><step>`; `seed` goes to every step that has one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    description: str = ""
    prefix: str = ""
    seed: int = 0
    steps: dict[str, Step]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: it is no YAML, a key is unknown, a step has a bad name or no stage.
    """
    try:
        recipe = Recipe.model_validate(load_mapping(path))
    except ValueError as error:
        raise ConfigError(_first_problem(error), where=str(path)) from None
    if not recipe.steps:
        raise ConfigError("the recipe has no steps", where=str(path))
    for step in recipe.steps:
        if not NAME_PATTERN.fullmatch(step):
            raise ConfigError(
                f"a step cannot be called {step!r}: letters, digits, dashes, underscores", where=str(path)
            )
    return recipe


def _first_problem(error: ValueError) -> str:
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    item = details(include_url=False)[0]
    return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with `--set` values: `{"step": {"key": value}}`, or `{"seed": 1}` for the recipe itself.

    Raises:
        UsageError: a step is not in the recipe; suggests the nearest.
    """
    steps = dict(recipe.steps)
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        if key in steps and isinstance(value, dict):
            steps[key] = steps[key].model_copy(update={"config": merge(steps[key].config, value)})
        elif key == "seed" and isinstance(value, int):
            changes["seed"] = value
        else:
            near = difflib.get_close_matches(key, steps, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"steps: {', '.join(steps)}"
            raise UsageError(f"--set {key}: the recipe {recipe.name!r} has no such step", hint=advice)
    return recipe.model_copy(update={"steps": steps, **changes})


@dataclass(frozen=True)
class PlannedStep:
    """A step of a planned recipe. `state` is cached, partial (a killed run left progress) or missing."""

    name: str
    plan: Plan
    state: str


def plan_recipe(
    recipe: Recipe, store: Store, *, first: str | None = None, last: str | None = None, where: str = "recipe"
) -> list[PlannedStep]:
    """Work out every step's id, in order, without running anything.

    Steps before `first` are left out and must be in the store already; steps after `last` are left out.

    Raises:
        ConfigError: a step's stage, configuration or inputs are wrong; names the step.
        MissingArtifactError: an input is neither an earlier step nor in the store.
    """
    names = list(recipe.steps)
    for given in (first, last):
        if given is not None and given not in names:
            raise UsageError(f"the recipe has no step {given!r}", hint=f"steps: {', '.join(names)}")
    start = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if start >= end:
        raise UsageError(f"--from {first} comes after --until {last}")
    done: dict[str, Plan] = {}
    planned: list[PlannedStep] = []
    for position, name in enumerate(names[:end]):
        plan = _plan_step(recipe, name, store, done, f"{where}: steps.{name}")
        done[name] = plan
        if position >= start:
            planned.append(PlannedStep(name, plan, state_of(store, plan)))
        elif state_of(store, plan) != "cached":
            raise UsageError(f"--from {first}: the step before it, {name!r}, is not in the store", hint="run it first")
    return planned


def _plan_step(recipe: Recipe, name: str, store: Store, done: Mapping[str, Plan], where: str) -> Plan:
    step = recipe.steps[name]
    try:
        stage = registry.get(step.stage)
        values = {**_seed(stage, recipe.seed), **step.config}
        config = build_config(stage.config, values, where=f"{where}.config").with_references(step.inputs)
        inputs = {
            role: [_input(reference, recipe, store, done) for reference in references]
            for role, references in step.inputs.items()
        }
        return plan_stage(stage, config, inputs, check_name(recipe.prefix + name))
    except UsageError as error:
        raise ConfigError(error.what, where=where, hint=error.hint) from None


def _seed(stage: Stage, seed: int) -> dict[str, int]:
    return {"seed": seed} if "seed" in stage.config.model_fields else {}


def _input(reference: str, recipe: Recipe, store: Store, done: Mapping[str, Plan]) -> PlannedInput:
    if reference in done:
        plan = done[reference]
        made = None if plan.forecast else store.get(plan.stage.output, plan.id)
        return PlannedInput(plan.id, plan.stage.output, plan.name, made, plan.forecast)
    if reference in recipe.steps:
        raise UsageError(f"the input {reference!r} is a later step", hint="a step can use earlier steps only")
    return planned_input(store, reference)


def state_of(store: Store, plan: Plan) -> str:
    """`cached`, `partial` (a killed run left progress) or `missing`."""
    if store.get(plan.stage.output, plan.id) is not None:
        return "cached"
    return "partial" if store.staging(plan.id).folder.is_dir() else "missing"


def run_steps(steps: Sequence[PlannedStep], session: Session) -> list[Outcome]:
    """Execute planned steps in order; cached ones are reused and renamed only.

    Raises:
        LongcatError: a step failed; its name is put in front.
    """
    outcomes = []
    hold_plans(session.store, [step.plan for step in steps])
    for step in steps:
        session.logger.info("%s: %s", step.name, _intent(step))
        outcome = execute(step.plan, session)
        outcomes.append(outcome)
    return outcomes


def _intent(step: PlannedStep) -> str:
    if step.state == "cached":
        return f"{step.plan.id} is in the store"
    verb = "goes on" if step.state == "partial" else "runs"
    return f"{step.plan.stage.name} {verb} -> {step.plan.stage.output}/{step.plan.id}"
