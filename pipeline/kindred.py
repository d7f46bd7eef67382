"""Unfinished runs that a planned run, with other settings, could go on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longcat.pipeline.artifact import without_keys
from longcat.pipeline.config import identity_values
from longcat.pipeline.lineage import flatten
from longcat.pipeline.plans import Plan
from longcat.pipeline.store import Store
from longcat.pipeline.unfinished import Unfinished, saved_step, unfinished_runs
from longcat.pipeline.values import written

MOST_DIFFERENCES = 8
MOST_RUNS = 3


@dataclass(frozen=True)
class Kindred:
    """An unfinished run of the same stage and inputs as a planned one.

    `differences` holds the settings that decide the result, as (there, here) by key; `command` goes on from there.
    """

    run: Unfinished
    differences: Mapping[str, tuple[Any, Any]]
    command: str

    @property
    def sentences(self) -> tuple[str, str]:
        """What there is and what differs, and how to go on from it."""
        shown = list(self.differences.items())[:MOST_DIFFERENCES]
        told = [
            f"{key} is {written(there, exact=True)} there and {written(here, exact=True)} here"
            for key, (there, here) in shown
        ]
        if len(self.differences) > len(shown):
            told.append(f"{len(self.differences) - len(shown)} more settings differ")
        differs = "; ".join(told) or "made by another version with the same settings"
        return (
            f"an unfinished run of the same inputs is kept, {self.run.label} ({self.run.id}): {differs}",
            f"this run starts anew; to go on from that one: {self.command}",
        )

    def to_json(self) -> dict[str, Any]:
        run = {"id": self.run.id, "name": self.run.name, "step": self.run.step}
        differences = {key: {"there": there, "here": here} for key, (there, here) in self.differences.items()}
        return run | {"differences": differences, "command": self.command}


def kindred_runs(store: Store, plan: Plan) -> list[Kindred]:
    """At most three, nearest first; none if the plan is made already or has progress of its own."""
    made = store.get(plan.stage.output, plan.id) is not None
    if plan.stage.go_on is None or made or saved_step(store.staging(plan.id).work) is not None:
        return []
    inputs = {role: [item.id for item in items] for role, items in plan.inputs.items()}
    found = []
    for run in unfinished_runs(store):
        usable = run.step is not None and not run.leftover and not run.active
        if usable and run.id != plan.id and run.stage == plan.stage.name and run.roles == inputs:
            differences = _differences(run, plan)
            command = plan.stage.go_on(run.id, differences, plan.name)
            if command is not None:
                found.append(Kindred(run, differences, command))
    return sorted(found, key=lambda item: (len(item.differences), item.run.age_seconds, item.run.id))[:MOST_RUNS]


def _differences(run: Unfinished, plan: Plan) -> dict[str, tuple[Any, Any]]:
    there = flatten(without_keys(run.config, run.runtime))
    here = flatten(identity_values(plan.config))
    keys = [*here, *(key for key in there if key not in here)]
    return {key: (there.get(key), here.get(key)) for key in keys if there.get(key) != here.get(key)}


def tell_of_kindred(store: Store, plan: Plan, logger: logging.Logger) -> None:
    """Warn of the unfinished runs that `plan` does not go on from."""
    for item in kindred_runs(store, plan):
        for sentence in item.sentences:
            logger.warning("%s", sentence)
