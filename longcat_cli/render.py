"""Printing of plans, outcomes, artifacts and configurations."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.tree import Tree

from longcat.cli.console import duration, out, print_json, size
from longcat.cli.eval_report import headline, results_table
from longcat.cli.forecast import forecast_figures, training_columns, training_plans, values_by_kind, warnings
from longcat.cli.tables import PlainTable, Unbroken, table
from longcat.cli.terminal import line, styled
from longcat.pipeline.values import is_records, leaves, numbers, written

if TYPE_CHECKING:
    from longcat.pipeline.artifact import Artifact, Manifest
    from longcat.pipeline.lineage import DocumentFlow
    from longcat.pipeline.plans import Plan
    from longcat.pipeline.recipe import PlannedStep, Recipe
    from longcat.pipeline.runner import Outcome
    from longcat.pipeline.stage import Stage
    from longcat.pipeline.store import Store

MOST_VALUES = 40
MOST_RECORDS = 60
# Up to this many characters all names of an artifact are shown; beyond, the newest and the number of others.
NAMES_ROOM = 40
TREE_INDENT, MIN_COUNTS = 4, 12


def print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """Print a finished stage: artifact, name, findings, counts and metrics."""
    if as_json:
        print_json(outcome.summary())
        return
    manifest = outcome.artifact.manifest
    name = f"{outcome.named.name}@{outcome.named.number}  " if outcome.named else ""
    how = "reused" if outcome.reused else f"made in {duration(manifest.duration_seconds)}"
    out().print(line(styled(name, "bold"), f"{manifest.kind}/{manifest.id}  {how}  {size(manifest.total_bytes)}"))
    if manifest.kind == "evaluation":
        out().print(results_table(manifest.metrics))
        _print_values(("what", ">value"), manifest.counts)
        if speed := manifest.performance.get("checkpoints"):
            out().print(records_table("speed", speed))
    else:
        _print_values(("what", ">value"), {**named_counts(manifest), **manifest.metrics})
        _print_values(("speed", ">value"), manifest.performance)
    out().print(line(styled(outcome.artifact.path, "dim")))


def _print_values(columns: tuple[str, str], values: Mapping[str, Any]) -> None:
    """Print the scalar values of a mapping as a table, then each of its lists of records as a table."""
    records = {key: value for key, value in values.items() if is_records(value)}
    rows = table(*columns)
    _add_values(rows, {key: value for key, value in values.items() if key not in records})
    if rows.row_count:
        out().print(rows)
    for key, found in records.items():
        out().print(records_table(key, found))


def _add_values(rows: PlainTable, values: Mapping[str, Any], indent: str = "") -> None:
    found = list(leaves(values))
    for key, value in found[:MOST_VALUES]:
        rows.add_row(f"{indent}{key}", written(value))
    if len(found) > MOST_VALUES:
        rows.note = f"{indent}{len(found) - MOST_VALUES} more with --json"


def records_table(title: str, records: Sequence[Mapping[str, Any]]) -> PlainTable:
    """Print a list of records as a table, one column per key; missing or None values are empty."""
    flat = [{key: value for key, value in leaves(record) if value is not None} for record in records]
    keys = list(dict.fromkeys(key for record in flat for key in record))
    right = {key for key in keys if all(isinstance(record.get(key, 0), (int, float)) for record in flat)}
    rows = table(*(f">{key}" if key in right else key for key in keys))
    rows.title = title
    for record in flat[:MOST_RECORDS]:
        rows.add_row(*(written(record[key]) if key in record else "" for key in keys))
    if len(flat) > MOST_RECORDS:
        rows.note = f"{len(flat) - MOST_RECORDS} more with --json"
    return rows


def print_plans(
    store: Store,
    plans: Sequence[Plan],
    *,
    as_json: bool,
    preview: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> None:
    """Print planned stages; `preview` holds records about the last one by title."""
    from longcat.pipeline.recipe import state_of

    steps = [(plan.name or plan.stage.name, plan, state_of(store, plan)) for plan in plans]
    print_steps(store, steps, as_json=as_json, preview=preview or {})


def print_recipe_plan(store: Store, recipe: Recipe, steps: Sequence[PlannedStep], *, as_json: bool) -> None:
    """Print the steps of a recipe and which of them are already in the store."""
    print_steps(store, [(step.name, step.plan, step.state) for step in steps], as_json=as_json, recipe=recipe.name)


def print_steps(
    store: Store,
    steps: Sequence[tuple[str, Plan, str]],
    *,
    as_json: bool,
    recipe: str | None = None,
    preview: Mapping[str, Sequence[Mapping[str, Any]]] = types.MappingProxyType({}),
) -> None:
    if as_json:
        plans = [_plan_json(store, *step) for step in steps]
        print_json({"recipe": recipe, "dry_run": True, "steps": plans, **preview})
        return
    from longcat.pipeline.kindred import kindred_runs
    from longcat.pipeline.recipe import made_elsewhere, told

    rows = table("step", "stage", "artifact", "state", "inputs", leaves=("inputs…", "stage"))
    style = {"cached": "green", "partial": "yellow", "missing": "cyan"}
    says = {"cached": "in the store", "partial": "resumes", "missing": "would run"}
    for name, plan, state in steps:
        inputs = ", ".join(item.name or item.id for items in plan.inputs.values() for item in items)
        artifact, shown = f"{plan.stage.output}/{plan.id}", styled(says[state], style[state])
        rows.add_row(name, plan.stage.name, artifact, shown, inputs)
    out().print(rows)
    for name, plan, _ in steps:
        if otherwise := told(made_elsewhere(store, plan)):
            out().print(f"{name} is in the store{otherwise}")
        for item in kindred_runs(store, plan):
            out().print("\n".join(item.sentences), soft_wrap=True)
        for sentence in warnings(plan):
            out().print(f"{name}: {sentence}", soft_wrap=True)
    for title, records in (_estimates(steps) | dict(preview)).items():
        out().print(records_table(title, records))


def _estimates(steps: Sequence[tuple[str, Plan, str]]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Records about planned steps by title: size, length and memory, and values by kind of parameter."""
    foreseen = [
        {"step": name, **_for_people(figures)} for name, plan, _ in steps if (figures := forecast_figures(plan))
    ]
    trainings = [{"step": name, **training_columns(row)} for name, plan, _ in steps for row in training_plans(plan)]
    by_kind = {f"{name}: values by kind of parameter": values_by_kind(plan) for name, plan, _ in steps}
    found: dict[str, Sequence[Mapping[str, Any]]] = {"forecast": foreseen, "training": trainings, **by_kind}
    return {title: rows for title, rows in found.items() if rows}


def _for_people(figures: Mapping[str, int]) -> dict[str, Any]:
    return {
        key.removesuffix("_bytes"): size(value) if key.endswith("_bytes") else value for key, value in figures.items()
    }


def _plan_json(store: Store, name: str, plan: Plan, state: str) -> dict[str, Any]:
    from longcat.pipeline.kindred import kindred_runs
    from longcat.pipeline.recipe import made_elsewhere

    otherwise = made_elsewhere(store, plan)
    return {
        "step": name,
        "stage": plan.stage.name,
        "id": plan.id,
        "kind": plan.stage.output,
        "state": state,
        "name": plan.name,
        "inputs": {role: [item.id for item in items] for role, items in plan.inputs.items()},
        "config": plan.config.model_dump(mode="json"),
        "forecast": forecast_figures(plan),
        "training": training_plans(plan),
        "by_kind": values_by_kind(plan),
        "warnings": warnings(plan),
        "made_otherwise": {key: {"there": there, "here": here} for key, (there, here) in otherwise.items()},
        "unfinished": [item.to_json() for item in kindred_runs(store, plan)],
    }


def print_outcomes(store: Store, outcomes: Sequence[Outcome], *, as_json: bool, recipe: str) -> None:
    """Print the artifacts of a finished recipe, and its document counts."""
    if as_json:
        print_json({"recipe": recipe, "artifacts": [outcome.summary() for outcome in outcomes]})
        return
    from longcat.pipeline.lineage import document_flows

    columns = ("artifact", "kind", "id", ">size", ">time", "metrics", "counts")
    rows = table(*columns, leaves=("counts…", "metrics…", "kind", "size"))
    for outcome in outcomes:
        manifest = outcome.artifact.manifest
        rows.add_row(
            f"{outcome.named.name}@{outcome.named.number}" if outcome.named else "",
            manifest.kind,
            manifest.id,
            size(manifest.total_bytes),
            "reused" if outcome.reused else duration(manifest.duration_seconds),
            _result(manifest),
            numbers(manifest.counts),
        )
    out().print(rows)
    for outcome in outcomes:
        if outcome.artifact.kind == "evaluation":
            out().print()
            out().print(results_table(outcome.artifact.manifest.metrics))
    if flows := document_flows(outcome.artifact for outcome in outcomes):
        out().print()
        print_flows(store, flows, as_json=False)


def print_artifacts(store: Store, artifacts: Sequence[Artifact], *, as_json: bool) -> None:
    """Print the artifacts of a store."""
    if as_json:
        print_json([artifact_json(store, artifact) for artifact in artifacts])
        return
    columns = ("names", "kind", "id", "stage", ">size", "made", "counts")
    rows = table(*columns, leaves=("counts…", "kind", "size", "made"))
    known = store.names_by_id()
    for artifact in artifacts:
        manifest = artifact.manifest
        rows.add_row(
            _names(known.get(artifact.id, [])),
            manifest.kind,
            manifest.id,
            manifest.stage,
            size(manifest.total_bytes),
            _minute(manifest.started),
            numbers(manifest.counts),
        )
    out().print(rows)


def _result(manifest: Manifest) -> str:
    """Summary of an artifact in a few words."""
    return headline(manifest.metrics) if manifest.kind == "evaluation" else numbers(manifest.metrics)


def _names(names: Sequence[str]) -> str:
    every = ", ".join(names)
    return every if len(every) <= NAMES_ROOM or len(names) == 1 else f"{names[-1]} +{len(names) - 1}"


def _minute(moment: str) -> str:
    """`2025-01-31T08:15:42Z` as `2025-01-31 08:15Z`; anything else is unchanged."""
    date, _, time = moment.partition("T")
    return f"{date} {time[:5]}Z" if time.endswith("Z") else moment


def artifact_json(store: Store, artifact: Artifact) -> dict[str, Any]:
    """Manifest with the artifact's names and path."""
    return {
        "names": store.names_of(artifact.id),
        "path": str(artifact.path),
        **artifact.manifest.model_dump(mode="json"),
    }


def named_counts(manifest: Manifest) -> dict[str, Any]:
    """Counts of a manifest; those by input are under the names that the user gave."""
    names = {item.id: item.name or item.id for item in manifest.ancestors()}
    inputs = [
        {"name": names.get(record["id"], record["id"]), **{key: value for key, value in record.items() if key != "id"}}
        for record in manifest.counts.get("inputs", [])
    ]
    return {**manifest.counts, **({"inputs": inputs} if inputs else {})}


def print_lineage(node: Mapping[str, Any]) -> None:
    """Print the lineage of an artifact as a tree, the artifact on top; repeated subtrees are expanded once."""
    console = out()
    console.print(Unbroken(_lineage_tree(node, None, set(), console.width)))


def _lineage_tree(node: Mapping[str, Any], role: str | None, seen: set[str], room: int) -> Tree:
    names = ", ".join(node.get("names", []))
    lead = styled(f"{role}: " if role else "", "dim")
    label = line(lead, styled(names or "-", "bold"), f" {node['kind']}/{node['id']}")
    if node["id"] in seen:
        return Tree(line(label, styled(" as above", "dim")))
    seen.add(node["id"])
    if node.get("missing"):
        return Tree(line(label, styled(" gone", "red")))
    label = line(label, styled(f" {node['stage']}", "dim"))
    counts = styled(numbers(node["counts"]))
    left = room - label.cell_len - 2
    if counts.cell_len > left:
        counts.truncate(max(left, 0), overflow="ellipsis")
    tree = Tree(line(label, "  ", counts) if left > MIN_COUNTS else label)
    tree.children += [_lineage_tree(child, child["role"], seen, room - TREE_INDENT) for child in node["inputs"]]
    return tree


def print_flows(store: Store, flows: Sequence[DocumentFlow], *, as_json: bool) -> None:
    """Print documents in, out and dropped per stage."""
    if as_json:
        print_json([_flow_json(store, flow) for flow in flows])
        return
    rows = table("stage", "artifact", ">in", ">out", ">dropped", "for", leaves=("for…",))
    for flow in flows:
        reasons = sorted(flow.dropped.items(), key=lambda item: -item[1])
        says = ", ".join(f"{reason} {count:,}" for reason, count in reasons[:3])
        if len(reasons) > 3:
            says += f", {len(reasons) - 3} more"
        lost = styled(f"{flow.unaccounted:,} not accounted for ", "red") if flow.unaccounted else ""
        name = _names(store.names_of(flow.artifact.id)) or flow.artifact.id
        dropped = sum(flow.dropped.values())
        stage = flow.artifact.manifest.stage
        counts = (f"{flow.documents_in:,}", f"{flow.documents_out:,}", f"{dropped:,}")
        rows.add_row(stage, name, *counts, line(lost, says))
    out().print(rows)


def _flow_json(store: Store, flow: DocumentFlow) -> dict[str, Any]:
    return {
        "id": flow.artifact.id,
        "kind": flow.artifact.kind,
        "names": store.names_of(flow.artifact.id),
        "stage": flow.artifact.manifest.stage,
        "documents_in": flow.documents_in,
        "documents_out": flow.documents_out,
        "dropped": dict(flow.dropped),
        "unaccounted": flow.unaccounted,
    }


def print_settings(stage: Stage, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Print every configuration key of a stage: its given or default value, and its description."""
    from longcat.pipeline.lineage import flatten

    fields = _fields(stage.config)
    values = flatten(given)
    if as_json:
        print_json(
            [{"key": key, "value": values.get(key, default), "description": text} for key, default, text in fields]
        )
        return
    rows = table("key", "~value", "~meaning")
    for key, default, text in fields:
        rows.add_row(key, written(values.get(key, default), exact=True), text)
    out().print(rows)


def _fields(config: type[Any], prefix: str = "") -> list[tuple[str, Any, str]]:
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python

    found: list[tuple[str, Any, str]] = []
    for name, info in config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found.extend(_fields(info.annotation, f"{prefix}{name}."))
            continue
        default = "(required)" if info.is_required() else info.get_default(call_default_factory=True)
        found.append((prefix + name, to_jsonable_python(default, fallback=str), info.description or ""))
    return found


def print_manifest(store: Store, artifact: Artifact) -> None:
    """Print one artifact."""
    manifest = artifact.manifest
    console = out()
    names = ", ".join(store.names_of(artifact.id)) or "no name"
    console.print(line(styled(names, "bold"), f"  {manifest.kind}/{manifest.id}  by {manifest.stage}"))
    console.print(line(artifact.path))
    made = f"made {manifest.started} in {duration(manifest.duration_seconds)}"
    console.print(line(made, f" by code {manifest.code_version}" if manifest.code_version else ""))
    inputs = {role: ", ".join(item.name or item.id for item in items) for role, items in manifest.inputs.items()}
    sections: list[tuple[str, Mapping[str, Any]]] = [
        ("inputs", inputs),
        ("configuration", manifest.config),
        ("counts", named_counts(manifest)),
        ("metrics", manifest.metrics),
        ("performance", manifest.performance),
        ("files", {entry.path: size(entry.size) for entry in manifest.files}),
        ("environment", manifest.environment),
    ]
    for title, values in sections:
        if not values:
            continue
        rows = table(title, "")
        _add_values(rows, values, "  ")
        console.print(rows)
