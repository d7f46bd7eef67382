"""`longcat serve --engine vllm|sglang`: an installed engine serves the checkpoint instead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from longcat.pipeline.progress import Progress
    from longcat.stages.serve.hand_over import Engine, HandOver
    from longcat.stages.serve.server import Door

# Written into the folder of an export, so that it is used again for the same checkpoint only.
MARK = "longcat-export.json"
PUBLISHED = "published"


def refuse_ours(given: Mapping[str, object], engine: Engine) -> None:
    """Refuse options of our own server that the engine has no counterpart of; `given` holds their values by flag.

    Raises:
        UsageError: one is given; names it.
    """
    from longcat.pipeline.errors import UsageError
    from longcat.stages.serve.hand_over import NAMES

    for flag, value in given.items():
        if value not in (None, (), [], "auto"):
            hint = f"leave it out, or pass an argument of {NAMES[engine]} after --"
            raise UsageError(f"{NAMES[engine]} has no counterpart of {flag}", hint=hint)


def refuse_alone(*, export_dir: Path | None, dry_run: bool, arguments: Sequence[str] | None) -> None:
    """Refuse options of a hand-over where nothing is handed over.

    Raises:
        UsageError: one is given; names it.
    """
    from longcat.pipeline.errors import UsageError

    if arguments:
        raise UsageError(f"unexpected argument {arguments[0]!r}", hint="arguments are passed on with --engine only")
    for flag, given in (("--export-dir", export_dir is not None), ("--dry-run", dry_run)):
        if given:
            raise UsageError(f"{flag} needs --engine vllm or sglang", hint=f"remove {flag}")


def flat_settings(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names: `{"drain": {"seconds": 3}}` to `{"serve.drain.seconds": 3}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{section}.{key}"
        found |= flat_settings(name, value) if isinstance(value, Mapping) else {name: value}
    return found


def engine_model(checkpoint: Path, export_dir: Path | None, progress: Progress) -> tuple[Path, Any]:
    """A folder that the engines can load, and its configuration: the checkpoint itself, or an export of it.

    Raises:
        UsageError: it has to be exported, and no folder is given.
        InputError, IntegrityError, ConfigError: it is damaged, or its export is another checkpoint's.
    """
    from longcat.pipeline.errors import UsageError
    from longcat.pipeline.verification import check_top_files
    from longcat.stages.convert import inspect_checkpoint

    layout, config = inspect_checkpoint(checkpoint)
    if layout == PUBLISHED and export_dir is None:
        check_top_files(checkpoint, progress)
        return checkpoint, config
    if export_dir is None:
        hint = "give --export-dir, a folder for weights in the published layout"
        raise UsageError(f"the weights are in the layout {layout}, which the engine does not load", hint=hint)
    return _exported(checkpoint, export_dir, progress), config


def _exported(checkpoint: Path, folder: Path, progress: Progress) -> Path:
    from longcat.pipeline.errors import InputError
    from longcat.pipeline.files import atomic_write
    from longcat.stages.convert import export_checkpoint

    mark = folder.expanduser() / MARK
    made_from = {"checkpoint": str(checkpoint.resolve())}
    if mark.is_file():
        if _read_mark(mark) != made_from:
            hint = "give another --export-dir, or delete this one"
            raise InputError("is an export of another checkpoint", where=str(folder), hint=hint)
        return folder.expanduser()
    result = export_checkpoint(checkpoint, folder, progress=progress)
    atomic_write(mark, json.dumps(made_from).encode() + b"\n")
    return Path(result["path"])


def _read_mark(mark: Path) -> object:
    from longcat.pipeline.files import read_json

    try:
        return read_json(mark)
    except ValueError:
        return None


def hand_over(asked: HandOver, config: Any, *, dry_run: bool) -> None:
    """Say what differs, then run the engine until it ends, or only show its command.

    Raises:
        UsageError: the engine is not installed, or has no counterpart of something.
        typer.Exit: the engine has ended with another code than 0.
    """
    from longcat.cli.console import out, say
    from longcat.cli.terminal import line
    from longcat.stages.serve.engine_process import find_engine, run_engine, shown
    from longcat.stages.serve.hand_over import differences, launch_of

    launch = launch_of(asked, [asked.engine, "serve"] if dry_run else find_engine(asked.engine))
    facts = {"zero_experts": config.zero_expert_num, "routed_scaling_factor": config.routed_scaling_factor}
    for sentence in differences(asked.engine, **facts):
        say(f"note: {sentence}")
    if dry_run:
        out().print(line(shown(launch)))
        return
    say(f"starting {shown(launch)}")
    code = run_engine(launch)
    if code:
        raise typer.Exit(code)


def start(
    engine: Engine,
    checkpoint: Path,
    door: Door,
    settings: Mapping[str, Any],
    *,
    dtype: str,
    export_dir: Path | None,
    arguments: Sequence[str],
    dry_run: bool,
    progress: Progress,
) -> None:
    """Let `engine` serve a checkpoint under the name `settings["serve.model_name"]`.

    Raises:
        UsageError: something has no counterpart in the engine; names it.
    """
    from longcat.stages.serve.auth import gather_keys
    from longcat.stages.serve.hand_over import HandOver

    refuse_ours({"--allowed-host": tuple(door.allowed_hosts)}, engine)
    given = dict(settings)
    name = given.pop("serve.model_name")
    if given.get("serve.page") is False:
        del given["serve.page"]
    model, config = engine_model(checkpoint, export_dir, progress)
    asked = HandOver(
        engine,
        model,
        name,
        host=door.host,
        port=door.port,
        uds=door.uds,
        tls_cert=door.tls_cert,
        tls_key=door.tls_key,
        dtype=dtype,
        api_keys=gather_keys(door.api_keys, door.key_file),
        settings=given,
        arguments=arguments,
    )
    hand_over(asked, config, dry_run=dry_run)
