"""How plans, outcomes, artifacts and configurations are printed."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.tree import Tree

from longcat.cli.console import brief, duration, out, print_json, size

if TYPE_CHECKING:
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.lineage import DocumentFlow, Garbage
    from longcat.pipeline.recipe import PlannedStep, Recipe
    from longcat.pipeline.runner import Outcome, Plan
    from longcat.pipeline.stage import Stage
    from longcat.pipeline.store import Store


def table(*columns: str) -> Table:
    """A table without vertical rules; columns named with a leading `>` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made


def print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """One finished stage: its artifact, name, counts and metrics."""
    if as_json:
        print_json(outcome.summary())
        return
    manifest = outcome.artifact.manifest
    name = f"{outcome.named.name}@{outcome.named.number}  " if outcome.named else ""
    how = "reused" if outcome.reused else f"made in {duration(manifest.duration_seconds)}"
    out().print(f"[bold]{name}[/bold]{manifest.kind}/{manifest.id}  {how}  {size(manifest.total_bytes)}")
    rows = table("what", ">value")
    for key, value in _leaves({**manifest.counts, **manifest.metrics, **manifest.performance}):
        rows.add_row(key, value)
    if rows.row_count:
        out().print(rows)
    for key, records in manifest.metrics.items():
        if isinstance(records, list) and records and all(isinstance(record, Mapping) for record in records):
            out().print(_records(key, records))
    out().print(f"[dim]{outcome.artifact.path}[/dim]", soft_wrap=True)


def _records(title: str, records: Sequence[Mapping[str, Any]], limit: int = 60) -> Table:
    """A list of records as a table, a column a key."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    numbers = {key for key in keys if all(isinstance(record.get(key, 0), (int, float)) for record in records)}
    rows = table(*(f">{key}" if key in numbers else key for key in keys))
    rows.title, rows.title_justify = title, "left"
    for record in records[:limit]:
        values = dict(_leaves(record))
        rows.add_row(*(values.get(key, "") for key in keys))
    if len(records) > limit:
        rows.add_row(f"... {len(records) - limit} more with --json")
    return rows


def _leaves(values: Mapping[str, Any], limit: int = 40) -> list[tuple[str, str]]:
    from longcat.pipeline.lineage import flatten

    rows = []
    for key, value in flatten(values).items():
        if isinstance(value, bool) or value is None or isinstance(value, str):
            rows.append((key, str(value)))
        elif isinstance(value, int):
            rows.append((key, f"{value:,}"))
        elif isinstance(value, float):
            rows.append((key, f"{value:.5g}"))
    return rows if len(rows) <= limit else [*rows[:limit], ("...", f"{len(rows) - limit} more with --json")]


def print_plan(
    store: Store, plan: Plan, *, as_json: bool, preview: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> None:
    """One planned stage, not run; `preview` holds records about it by title."""
    from longcat.pipeline.recipe import state_of

    print_steps([(plan.name or plan.stage.name, plan, state_of(store, plan))], as_json=as_json, preview=preview or {})


def print_recipe_plan(recipe: Recipe, steps: Sequence[PlannedStep], *, as_json: bool) -> None:
    """The steps of a recipe and which of them are in the store already."""
    print_steps([(step.name, step.plan, step.state) for step in steps], as_json=as_json, recipe=recipe.name)


def print_steps(
    steps: Sequence[tuple[str, Plan, str]],
    *,
    as_json: bool,
    recipe: str | None = None,
    preview: Mapping[str, Sequence[Mapping[str, Any]]] = types.MappingProxyType({}),
) -> None:
    if as_json:
        print_json({"recipe": recipe, "dry_run": True, "steps": [_plan_json(*step) for step in steps], **preview})
        return
    rows = table("step", "stage", "artifact", "state", "inputs")
    style = {"cached": "green", "partial": "yellow", "missing": "cyan"}
    says = {"cached": "in the store", "partial": "goes on", "missing": "would run"}
    for name, plan, state in steps:
        inputs = ", ".join(item.name or item.id for items in plan.inputs.values() for item in items)
        rows.add_row(
            name, plan.stage.name, f"{plan.stage.output}/{plan.id}", f"[{style[state]}]{says[state]}[/]", inputs
        )
    out().print(rows)
    for title, records in preview.items():
        out().print(_records(title, records))


def _plan_json(name: str, plan: Plan, state: str) -> dict[str, Any]:
    return {
        "step": name,
        "stage": plan.stage.name,
        "id": plan.id,
        "kind": plan.stage.output,
        "state": state,
        "name": plan.name,
        "inputs": {role: [item.id for item in items] for role, items in plan.inputs.items()},
        "config": plan.config.model_dump(mode="json"),
    }


def print_outcomes(store: Store, outcomes: Sequence[Outcome], *, as_json: bool, recipe: str) -> None:
    """The artifacts of a finished recipe, and what became of the documents."""
    if as_json:
        print_json({"recipe": recipe, "artifacts": [outcome.summary() for outcome in outcomes]})
        return
    from longcat.pipeline.lineage import document_flows

    rows = table("artifact", "kind", "id", ">size", ">time", "counts", "metrics")
    for outcome in outcomes:
        manifest = outcome.artifact.manifest
        rows.add_row(
            f"{outcome.named.name}@{outcome.named.number}" if outcome.named else "",
            manifest.kind,
            manifest.id,
            size(manifest.total_bytes),
            "reused" if outcome.reused else duration(manifest.duration_seconds),
            brief(manifest.counts, 3),
            brief(manifest.metrics, 3),
        )
    out().print(rows)
    if flows := document_flows(outcome.artifact for outcome in outcomes):
        out().print()
        print_flows(store, flows, as_json=False)


def print_artifacts(store: Store, artifacts: Sequence[Artifact], *, as_json: bool) -> None:
    """The list of a store."""
    if as_json:
        print_json([artifact_json(store, artifact) for artifact in artifacts])
        return
    rows = table("names", "kind", "id", "stage", ">size", "made", "counts")
    for artifact in artifacts:
        manifest = artifact.manifest
        names = ", ".join(store.names_of(artifact.id))
        rows.add_row(
            names,
            manifest.kind,
            manifest.id,
            manifest.stage,
            size(manifest.total_bytes),
            manifest.started.replace("T", " ").removesuffix("Z"),
            brief(manifest.counts, 3),
        )
    out().print(rows)


def artifact_json(store: Store, artifact: Artifact) -> dict[str, Any]:
    """The manifest with the artifact's names and place."""
    return {
        "names": store.names_of(artifact.id),
        "path": str(artifact.path),
        **artifact.manifest.model_dump(mode="json"),
    }


def lineage_tree(node: Mapping[str, Any], role: str | None = None, seen: set[str] | None = None) -> Tree:
    """The lineage of an artifact as a tree, the artifact on top; what stands in it twice is unfolded once."""
    seen = set() if seen is None else seen
    names = ", ".join(node.get("names", []))
    label = f"[dim]{role}: [/dim]" if role else ""
    label += f"[bold]{names or '-'}[/bold] {node['kind']}/{node['id']}"
    if node["id"] in seen:
        return Tree(f"{label} [dim]as above[/dim]")
    seen.add(node["id"])
    if node.get("missing"):
        label += " [red]gone[/red]"
    else:
        label += f" [dim]{node['stage']}[/dim]  {brief(node['counts'], 3)}"
    tree = Tree(label)
    for child in node["inputs"]:
        tree.children.append(lineage_tree(child, child["role"], seen))
    return tree


def print_flows(store: Store, flows: Sequence[DocumentFlow], *, as_json: bool) -> None:
    """Documents in, out and dropped, stage by stage."""
    if as_json:
        print_json([_flow_json(store, flow) for flow in flows])
        return
    rows = table("stage", "artifact", ">in", ">out", ">dropped", "for")
    for flow in flows:
        reasons = sorted(flow.dropped.items(), key=lambda item: -item[1])
        says = ", ".join(f"{reason} {count:,}" for reason, count in reasons[:3])
        if len(reasons) > 3:
            says += f", {len(reasons) - 3} more"
        if flow.unaccounted:
            says += f" [red]{flow.unaccounted:,} not accounted for[/red]"
        name = ", ".join(store.names_of(flow.artifact.id)) or flow.artifact.id
        dropped = sum(flow.dropped.values())
        stage = flow.artifact.manifest.stage
        rows.add_row(stage, name, f"{flow.documents_in:,}", f"{flow.documents_out:,}", f"{dropped:,}", says)
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
    """Every configuration key of a stage: its value as given or by default, and what it means."""
    from longcat.pipeline.lineage import flatten

    fields = _fields(stage.config)
    values = flatten(given)
    if as_json:
        print_json(
            [{"key": key, "value": values.get(key, default), "description": text} for key, default, text in fields]
        )
        return
    rows = table("key", "value", "meaning")
    for key, default, text in fields:
        rows.add_row(key, str(values.get(key, default)), text.replace("[", "\\["))
    out().print(rows)


def _fields(config: type[Any], prefix: str = "") -> list[tuple[str, Any, str]]:
    from pydantic import BaseModel

    found: list[tuple[str, Any, str]] = []
    for name, info in config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found.extend(_fields(info.annotation, f"{prefix}{name}."))
            continue
        default = "(required)" if info.is_required() else info.get_default(call_default_factory=True)
        plain = default if isinstance(default, (bool, int, float, str, type(None))) else str(default)
        found.append((prefix + name, plain, info.description or ""))
    return found


def print_manifest(store: Store, artifact: Artifact) -> None:
    """One artifact for people."""
    manifest = artifact.manifest
    console = out()
    names = ", ".join(store.names_of(artifact.id)) or "no name"
    console.print(f"[bold]{names}[/bold]  {manifest.kind}/{manifest.id}  by {manifest.stage}")
    console.print(f"{artifact.path}", soft_wrap=True)
    console.print(f"made {manifest.started} in {duration(manifest.duration_seconds)} by code {manifest.code_version}")
    sections: list[tuple[str, Mapping[str, Any]]] = [
        (
            "inputs",
            {role: ", ".join(item.name or item.id for item in items) for role, items in manifest.inputs.items()},
        ),
        ("configuration", manifest.config),
        ("counts", manifest.counts),
        ("metrics", manifest.metrics),
        ("performance", manifest.performance),
        ("files", {entry.path: size(entry.size) for entry in manifest.files}),
        ("environment", manifest.environment),
    ]
    for title, values in sections:
        if not values:
            continue
        rows = table(title, "")
        for key, value in _leaves(values):
            rows.add_row(f"  {key}", value)
        console.print(rows)


def print_difference(changes: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """What changed from one artifact to another."""
    if not changes:
        out().print("no difference")
        return
    rows = table("section", "key", "before", "after")
    for section, values in changes.items():
        for key, (before, after) in values.items():
            rows.add_row(section, key, str(before), str(after))
    out().print(rows)


def print_verification(store: Store, found: Sequence[tuple[Artifact, list[str]]], *, as_json: bool) -> None:
    """The outcome of checking artifacts against their manifests."""
    if as_json:
        print_json([{"id": a.id, "kind": a.kind, "whole": not problems, "problems": problems} for a, problems in found])
        return
    rows = table("artifact", "names", "state")
    for artifact, problems in found:
        state = "[green]whole[/green]" if not problems else f"[red]{'; '.join(problems)}[/red]"
        rows.add_row(f"{artifact.kind}/{artifact.id}", ", ".join(store.names_of(artifact.id)), state)
    out().print(rows)


def print_garbage(found: Sequence[Garbage], *, deleted: bool, as_json: bool) -> None:
    """What `gc` found, and whether it is gone."""
    if as_json:
        items = [{"path": str(item.path), "reason": item.reason, "bytes": item.size} for item in found]
        print_json({"deleted": deleted, "bytes": sum(item.size for item in found), "items": items})
        return
    rows = table("folder", "reason", ">size")
    for item in found:
        rows.add_row(str(item.path), item.reason, size(item.size))
    if found:
        out().print(rows)
    verb = "deleted" if deleted else "would be deleted with --yes"
    out().print(f"{len(found)} folders, {size(sum(item.size for item in found))} {verb}")
