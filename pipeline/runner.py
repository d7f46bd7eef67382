"""Runs one stage: resolves inputs, computes the artifact's id, reuses or makes it, and names it."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from longcat.pipeline.artifact import Artifact, InputRef, Manifest, artifact_id, load_artifact
from longcat.pipeline.config import StageConfig, build_config, identity_values, runtime_keys
from longcat.pipeline.engine import Engine, LocalEngine
from longcat.pipeline.environment import code_version, environment
from longcat.pipeline.errors import (
    BusyError,
    InputError,
    IntegrityError,
    InterruptedRunError,
    LongcatError,
    UsageError,
)
from longcat.pipeline.faults import machine_error, number_in_text, writing_failed
from longcat.pipeline.files import append_jsonl
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.kindred import tell_of_kindred
from longcat.pipeline.lock import locked
from longcat.pipeline.outcome import Outcome
from longcat.pipeline.plans import Plan, PlannedInput
from longcat.pipeline.progress import Progress, SilentProgress
from longcat.pipeline.refs import Named, check_name
from longcat.pipeline.shallow import note_absent
from longcat.pipeline.sources import check_unchanged, stamps_of
from longcat.pipeline.stage import Context, Result, Stage, registry, seed_of
from longcat.pipeline.store import Staging, Store, utc_now
from longcat.pipeline.unfinished import describe_run

# Above this size inputs are checked by size only before a stage reads them; `artifacts verify` checks all bytes.
VERIFY_BYTES = 4 << 30

# Seconds that a helper process waits for the publishing one: hashing large files takes long.
PUBLISH_SECONDS = 1800


@dataclass
class Session:
    """State shared by all stages of one command."""

    store: Store
    engine: Engine = field(default_factory=LocalEngine)
    progress: Progress = field(default_factory=SilentProgress)
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("longcat"))
    stop: StopSignal = field(default_factory=StopSignal)


Reference = str | Artifact | PlannedInput


def plan_stage(
    stage: Stage,
    config: StageConfig,
    inputs: Mapping[str, Sequence[PlannedInput]],
    name: str | None = None,
) -> Plan:
    """Check the inputs against the stage's roles and compute the id.

    Raises:
        UsageError: a role is unknown, missing, given twice, or holds an artifact of another kind.
        ConfigError: the stage's check rejects the configuration with these inputs.
        InputError: a source outside the store is missing.
    """
    known = {role.name: role for role in stage.roles}
    for given in inputs:
        if given not in known:
            raise UsageError(f"{stage.name} has no input {given!r}", hint=f"inputs: {', '.join(known) or 'none'}")
    for role in stage.roles:
        items = inputs.get(role.name, ())
        if role.required and not items:
            raise UsageError(f"{stage.name} needs the input {role.name!r} ({' or '.join(role.kinds)})")
        if len(items) > 1 and not role.several:
            raise UsageError(f"{stage.name} takes one {role.name!r}, {len(items)} were given")
        for number, item in enumerate(items):
            if item.kind == "documents" and item.id in (one.id for one in items[:number]):
                raise UsageError(f"{stage.name}: {item.name or item.id} is given twice as {role.name!r}")
            if item.kind not in role.kinds:
                raise UsageError(
                    f"{stage.name} needs {' or '.join(role.kinds)} as {role.name!r}, "
                    f"{item.name or item.id} is a {item.kind} artifact"
                )
    if name is not None:
        check_name(name)
    chosen = {role: tuple(items) for role, items in inputs.items() if items}
    config = config.resolved()
    forecast = stage.check(config, chosen) if stage.check else {}
    sources = stage.sources(config) if stage.sources else {}
    ids = {role: [item.id for item in items] for role, items in chosen.items()}
    identifier = artifact_id(stage.name, stage.revision, identity_values(config), ids, sources)
    return Plan(stage, config, chosen, sources, identifier, name, forecast)


def execute(plan: Plan, session: Session) -> Outcome:
    """Reuse the artifact of `plan` or make it, then give it its name.

    Raises:
        LongcatError: see the subclasses; finished work stays in staging and is reused by the next run.
    """
    try:
        return _execute(plan, session)
    except InterruptedRunError as error:
        error.hint = error.hint or plan.stage.rerun_hint
        raise


def _execute(plan: Plan, session: Session) -> Outcome:
    store, log = session.store, session.logger
    session.stop.check()
    hold_plans(store, [plan])
    artifact = _reusable(store, plan)
    reused = artifact is not None
    if plan.stage.follows is not None and plan.stage.follows(plan.config):
        return Outcome(artifact or _follow(plan, session), reused, None)
    if artifact is not None:
        _clear_progress(store, plan)
        return Outcome(artifact, reused, _name(store, plan, artifact))
    inputs = {role: tuple(_fetch(store, item) for item in items) for role, items in plan.inputs.items()}

    def told(holder: str) -> None:
        log.warning("process %s is making %s already; waiting for it", holder, plan.id)

    with store.making(plan.id, kind=plan.stage.output, on_wait=told) as staging:
        artifact = _reusable(store, plan) or _taken_back(store, plan)  # another process may have finished it
        if artifact is None:
            artifact = _make(plan, inputs, staging, session)
        else:
            reused = True
            store.discard(staging)
        return Outcome(artifact, reused, _name(store, plan, artifact))


def hold_plans(store: Store, plans: Iterable[Plan]) -> None:
    """Protect outputs and inputs of plans from `gc` while this process lives."""
    store.hold(
        identifier
        for plan in plans
        for identifier in (plan.id, *(item.id for items in plan.inputs.values() for item in items))
    )


def _name(store: Store, plan: Plan, artifact: Artifact) -> Named | None:
    """Name an artifact and record the name in its run log."""
    if plan.name is None:
        return None

    def note(named: Named) -> None:
        line = {"event": "named", "name": named.name, "number": named.number, "kind": artifact.kind}
        append_jsonl(store.log_path(artifact.id), {**line, "time": named.version.created})

    return store.refs.publish(plan.name, artifact.id, artifact.kind, utc_now(), before=note)


def _clear_progress(store: Store, plan: Plan) -> None:
    """Delete progress that a kill left beside a finished artifact, unless another process is doing so."""
    if store.staging(plan.id).folder.is_dir():
        with suppress(BusyError), locked(store.lock_path(plan.id), wait=False):
            store.discard(store.staging(plan.id))


def _taken_back(store: Store, plan: Plan) -> Artifact | None:
    """Restore the artifact if `gc` has moved it into quarantine meanwhile."""
    return _reusable(store, plan) if store.take_back(plan.id, "artifact") else None


def _reusable(store: Store, plan: Plan) -> Artifact | None:
    artifact = store.get(plan.stage.output, plan.id)
    if artifact is not None and (damaged := artifact.missing_or_resized()):
        raise _damage_error(artifact, damaged[0])
    return artifact


def _fetch(store: Store, item: PlannedInput) -> Artifact:
    artifact = store.get(item.kind, item.id)
    if artifact is None and item.artifact is not None and _elsewhere(store, item.artifact):
        artifact = load_artifact(item.artifact.path)
    if artifact is None and store.trash.find(item.id, "artifact"):
        with locked(store.lock_path(item.id)):
            store.take_back(item.id, "artifact")
    artifact = artifact or store.resolve(item.id)
    large = artifact.manifest.total_bytes > VERIFY_BYTES
    damaged = artifact.missing_or_resized() if large else artifact.damage()
    if damaged:
        raise _damage_error(artifact, damaged[0])
    return artifact


def _elsewhere(store: Store, artifact: Artifact) -> bool:
    """Whether an artifact was given as a folder in another store."""
    return artifact.path != store.folder(artifact.kind, artifact.id)


def _damage_error(artifact: Artifact, first: str) -> IntegrityError:
    return IntegrityError(
        f"the {artifact.kind} artifact {artifact.id} is damaged: {first}",
        where=str(artifact.path),
        hint="`longcat artifacts gc --damaged --yes` removes it, then the same command makes it again",
    )


def _follow(plan: Plan, session: Session) -> Artifact:
    """Help the process that makes the artifact, and wait until it has published it."""
    store = session.store
    inputs = {role: tuple(_fetch(store, item) for item in items) for role, items in plan.inputs.items()}
    plan.stage.function(_context(plan, inputs, store.staging(plan.id), session))
    deadline = time.monotonic() + PUBLISH_SECONDS
    while time.monotonic() < deadline:
        session.stop.check()
        if (artifact := _reusable(store, plan)) is not None:
            return artifact
        time.sleep(1)
    raise LongcatError(f"{plan.id} was made, but not published within {PUBLISH_SECONDS} s", where=str(store.root))


def _context(
    plan: Plan, inputs: Mapping[str, tuple[Artifact, ...]], staging: Staging, session: Session
) -> Context[StageConfig]:
    return Context(
        config=plan.config,
        inputs=inputs,
        output=staging.output,
        work=staging.work,
        log_path=session.store.log_path(plan.id),
        engine=session.engine,
        progress=session.progress,
        logger=session.logger,
        stop=session.stop,
    )


def _make(plan: Plan, inputs: Mapping[str, tuple[Artifact, ...]], staging: Staging, session: Session) -> Artifact:
    started, clock = utc_now(), time.monotonic()
    log_path = session.store.log_path(plan.id)
    append_jsonl(log_path, {"event": "start", "time": started, "stage": plan.stage.name, "name": plan.name})
    _check_sources(plan)
    _begin(plan, staging, session, started)
    context = _context(plan, inputs, staging, session)
    try:
        result = plan.stage.function(context)
        _check_sources_again(plan, staging, session)
        files = session.store.seal(staging)
        duration = time.monotonic() - clock
        manifest = _manifest(plan, result, files, started, duration)
        note_absent(session.store, manifest.ancestors())  # inputs used in place, in another store
        artifact = session.store.publish(staging, manifest)
    except Exception as error:
        if isinstance(error, LongcatError | MemoryError) or not writing_failed(error):
            raise
        full = number_in_text(error) == errno.ENOSPC
        place = getattr(error, "filename", None) or (session.store.root if full else plan.stage.name)
        raise machine_error(error, place) from None
    append_jsonl(log_path, {"event": "done", "time": utc_now(), "seconds": round(duration, 3)})
    return artifact


def _check_sources(plan: Plan) -> None:
    """Check that files outside the store match the digests in the plan's id."""
    if plan.stage.sources is not None:
        check_unchanged(plan.sources, plan.stage.sources(plan.config))


def _check_sources_again(plan: Plan, staging: Staging, session: Session) -> None:
    """Repeat the check at the end; progress from changed files is dropped."""
    try:
        _check_sources(plan)
    except InputError:
        session.store.discard(staging)
        raise


def _begin(plan: Plan, staging: Staging, session: Session, started: str) -> None:
    """Record what is made; discard progress of an earlier run whose sources were modified since."""
    stamps = stamps_of(plan.sources)
    before = staging.description().get("stamps", stamps)
    if before != stamps:
        session.logger.warning("an input was modified since the last run: its progress is discarded")
        session.store.discard(staging)
        staging.output.mkdir(parents=True)
        staging.work.mkdir()
    tell_of_kindred(session.store, plan, session.logger)
    describe_run(staging, plan, started, stamps)


def _manifest(plan: Plan, result: Result, files: list[Any], started: str, duration: float) -> Manifest:
    return Manifest(
        id=plan.id,
        kind=plan.stage.output,  # type: ignore[arg-type]  # checked when the stage was registered
        stage=plan.stage.name,
        revision=plan.stage.revision,
        inputs={
            role: [InputRef.model_validate({"id": item.id, "kind": item.kind, "name": item.name}) for item in items]
            for role, items in plan.inputs.items()
        },
        sources=dict(plan.sources),
        config=plan.config.model_dump(mode="json"),
        runtime=runtime_keys(plan.config),
        files=files,
        counts=result.counts,
        metrics=result.metrics,
        performance=result.performance,
        seed=seed_of(plan.config),
        code_version=code_version(),
        environment=environment(),
        started=started,
        duration_seconds=round(duration, 3),
    )


def planned_input(store: Store, reference: Reference) -> PlannedInput:
    """Resolve a reference; see `Store.resolve`."""
    if isinstance(reference, PlannedInput):
        return reference
    artifact = store.resolve(reference) if isinstance(reference, str) else reference
    name = reference if isinstance(reference, str) and store.refs.lookup(reference) else None
    return PlannedInput(artifact.id, artifact.kind, name, artifact)


def plan_named(
    session: Session,
    stage_name: str,
    config: StageConfig | Mapping[str, Any],
    inputs: Mapping[str, Reference | Sequence[Reference]] | None = None,
    publish_as: str | None = None,
) -> Plan:
    """Plan a stage from its name, plain values and references.

    Raises:
        ConfigError: a value is unknown or wrong.
        MissingArtifactError: a reference matches nothing.
    """
    stage = registry.get(stage_name)
    if not isinstance(config, StageConfig):
        config = build_config(stage.config, config, where=f"{stage_name} configuration")
    planned, typed = {}, {}
    for role, given in (inputs or {}).items():
        references = [given] if isinstance(given, (str, Artifact, PlannedInput)) else list(given)
        planned[role] = [planned_input(session.store, reference) for reference in references]
        typed[role] = [reference for reference in references if isinstance(reference, str)]
    return plan_stage(stage, config.with_references(typed), planned, publish_as)


def run_stage(
    session: Session,
    stage_name: str,
    config: StageConfig | Mapping[str, Any],
    inputs: Mapping[str, Reference | Sequence[Reference]] | None = None,
    publish_as: str | None = None,
) -> Outcome:
    """Plan and execute one stage."""
    return execute(plan_named(session, stage_name, config, inputs, publish_as), session)
