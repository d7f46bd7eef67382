"""Checkpoints from and for other tools: stage `import`, and `export_checkpoint`."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.files import atomic_path, fsync_folder
from longcat.pipeline.progress import Progress
from longcat.pipeline.stage import Context, Result, stage
from longcat.pipeline.verification import check_top_files
from longcat.stages.formats.special_tokens import TOKENIZER_FILES
from longcat.stages.formats.tokenizer_config import export_tokenizer_config

if TYPE_CHECKING:
    from longcat.model.checkpoint import Conversion
    from longcat.model.config import ModelConfig

Layout = Literal["published", "transformers5"]
Dtype = Literal["stored", "float32", "bfloat16", "float16"]
Weights = Literal["plain", "fp8"]
MEGA = 1_000_000


class ImportConfig(StageConfig):
    """Configuration of `import`."""

    folder: str = Field(description="Folder with config.json and safetensors, as published or for transformers 5.")


def _sources(config: ImportConfig) -> dict[str, str]:
    from longcat.pipeline.sources import fingerprint_paths

    folder = _folder(config.folder)
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    others = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    return fingerprint_paths(sorted(path for path in [*weights, *others] if path.is_file()))


@stage("import", revision=2, inputs={}, output="checkpoint", sources=_sources, resumes=False)
def import_checkpoint(context: Context[ImportConfig]) -> Result:
    """Import a LongCat-Flash checkpoint of another tool into the store, with its tokenizer files.

    Reads the published layout and the one of transformers 5, safetensors only, and keeps the bits of every weight. Code
    in the folder is neither run nor copied.

    Raises:
        InputError: the folder is missing, incomplete or damaged, has only quantised or pickled weights, or its
            tokenizer has more tokens than the model.
        ConfigError: its config.json is of another architecture.
    """
    from longcat.model.accounting import count
    from longcat.model.checkpoint import Conversion
    from longcat.stages.formats.checkpoint import clear

    folder, started = _folder(context.config.folder), time.perf_counter()
    clear(context.output)
    with _told():
        conversion = Conversion(folder)
        _check_tokenizer(context, folder, conversion.config.vocab_size)
        _write(conversion, context.output, context.progress, "importing")
    files = _copy_tokenizer(folder, context.output)
    sizes, seconds = count(conversion.config), time.perf_counter() - started
    return Result(
        counts={
            "parameters": sizes.total,
            "activated_parameters": sizes.activated_mean,
            "layers": conversion.config.num_layers,
        },
        metrics={"layout": conversion.found, "weight_bytes": conversion.size, "tokenizer_files": files},
        performance={"megabytes_per_second": round(conversion.size / MEGA / max(seconds, 1e-9), 1)},
    )


def export_checkpoint(
    source: Path,
    output: Path,
    *,
    layout: Layout = "published",
    dtype: Dtype = "stored",
    weights: Weights = "plain",
    allow_incompatible: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Write the checkpoint in `source` and its tokenizer files to the new folder `output`; returns a summary.

    `output` appears by one rename when everything is on disk. Without `allow_incompatible` the model is one that other
    programs can run, and the folder has nothing that only this toolkit reads (`Conversion`, `standalone`). `fp8`
    weights are those of published FP8 checkpoints.

    Raises:
        InputError: `output` exists and is not empty, `source` is not a complete checkpoint, other programs would
            compute something else, or `weights` do not go with `layout` or `dtype`.
        IntegrityError: `source` is an artifact and differs from its manifest.
        ConfigError: its config.json is of another architecture.
    """
    import torch

    from longcat.model.checkpoint import Conversion

    output = output.expanduser().resolve()
    _check_free(output)
    check_top_files(source, progress)
    wanted = None if dtype == "stored" else getattr(torch, dtype)
    with _told(), _beside(output) as aside:
        conversion = Conversion(source, layout=layout, dtype=wanted, standalone=True, fp8=weights == "fp8")
        reason = conversion.config.unreadable_elsewhere()
        if reason is not None and not allow_incompatible:
            hint = "--allow-incompatible writes it for programs that know this key"
            raise InputError(f"cannot be exported: {reason}", where=str(source), hint=hint)
        _write(conversion, aside, progress, "exporting")
        _copy_tokenizer(source, aside)
        export_tokenizer_config(aside, conversion.config.max_position_embeddings)
    return {
        "incompatible": reason,
        "path": str(output),
        "layout": layout,
        "dtype": conversion.dtype,
        "weights": weights,
        "weight_bytes": conversion.size,
        "files": sorted(path.name for path in output.iterdir()),
    }


def inspect_checkpoint(folder: Path) -> tuple[str, ModelConfig]:
    """Layout of the weights in a folder, and the configuration.

    Raises:
        InputError: it is not a complete checkpoint, or one that other programs cannot run.
        ConfigError: its config.json is of another architecture.
    """
    from longcat.model.checkpoint import Conversion

    with _told():
        conversion = Conversion(folder)
    reason = conversion.config.unreadable_elsewhere()
    if reason is not None:
        raise InputError(f"cannot be used elsewhere: {reason}", where=str(folder))
    return conversion.found, conversion.config


def _folder(given: str) -> Path:
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder))
    return folder


def _check_free(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise InputError("is a file", where=str(output), hint="use the name of a new folder")
    if output.is_dir() and any(output.iterdir()):
        raise InputError("is not empty", where=str(output), hint="use the name of a new folder")


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Context with a temporary folder that is renamed to `output` at the end, or deleted on failure."""
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    aside.mkdir()
    try:
        yield aside
        fsync_folder(aside)
        aside.rename(output)
        fsync_folder(output.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def _told() -> Iterator[None]:
    """Convert errors of an external folder to InputError."""
    from longcat.model.errors import CheckpointError, ModelConfigError

    try:
        yield
    except ModelConfigError as error:
        raise ConfigError(str(error)) from None
    except CheckpointError as error:
        raise InputError(str(error)) from None


def _write(conversion: Conversion, folder: Path, progress: Progress, description: str) -> None:
    with progress.task(description, total=round(conversion.size / MEGA, 1), unit="MB") as bar:
        conversion.write(folder, advance=lambda written: bar.advance(round(written / MEGA, 1)))


def _copy_tokenizer(source: Path, output: Path) -> list[str]:
    """Copy the tokenizer files of `source`; returns their names."""
    found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in found:
        with atomic_path(output / name) as aside:
            shutil.copyfile(source / name, aside)
    return found


def _check_tokenizer(context: Context[ImportConfig], folder: Path, rows: int) -> None:
    """Warn if the checkpoint has no usable tokenizer, fail if the tokenizer belongs to another model."""
    from longcat.stages.formats.tokenizer import load_tokenizer
    from longcat.stages.formats.tokenizer_backend import read_vocabulary

    path = folder / "tokenizer.json"
    try:
        load_tokenizer(folder)
        # Ids may have gaps, and every id needs a row.
        size = max(read_vocabulary(path).values(), default=-1) + 1
    except InputError as error:
        context.logger.warning("%s; the checkpoint cannot be served or evaluated without a tokenizer", error)
        return
    if size > rows:
        raise InputError(
            f"the tokenizer has {size} tokens, the model has vocab_size = {rows}",
            where=str(path),
            hint="they are from different models",
        )
