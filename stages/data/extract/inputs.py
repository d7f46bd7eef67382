"""Resolution of user inputs to files in a fixed order, and their partition into shards."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError
from longcat.pipeline.printable import valid_text
from longcat.pipeline.remote import RemoteFile, is_remote, remote_files
from longcat.pipeline.sources import is_store, plain_files
from longcat.stages.data.extract import standard_input
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.registry import FORMATS, format_of_name
from longcat.stages.data.extract.records import InputFile

KNOWN_NAMES = (
    ".warc .arc .wacz .html .jsonl .json.gz .parquet .csv .tsv .txt .md .rst .ipynb and source code, "
    "each also with .gz, .zst, .bz2 or .xz"
)


@dataclass(frozen=True)
class Listing:
    """Files to read, and skipped files with name and reason."""

    files: tuple[InputFile, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Skipped:
    """A file that is not read. `ending` is its lower-case extension, empty if none."""

    source: str
    ending: str
    reason: str  # unknown_format, format_left_out by the option `formats`, or not_installed


@dataclass(frozen=True)
class Given:
    """A path given by the user, or a match of a pattern."""

    path: Path
    name: str  # `-` for standard input
    by_name: bool


def expand(names: Iterable[str]) -> list[Given]:
    """Paths for names and glob patterns, unique, in the given order; matches of a pattern sorted.

    A URL gives its remote files, which are read like paths; `-` is standard input.

    Raises:
        InputError: a pattern matches nothing, a path is a pipe or a device, or a remote file cannot be reached. Missing
            paths are reported by the reader.
    """
    given: dict[str | Path, Given] = {}
    for name in names:
        if name == standard_input.NAME:
            given.setdefault(name, Given(standard_input.copied(), name, by_name=True))
            continue
        if is_remote(name):
            for remote in remote_files(name):
                given.setdefault(remote.url, Given(cast("Path", remote), remote.url, by_name=remote.url == name))
            continue
        path = Path(name).expanduser()
        if path.exists() or not glob.has_magic(name):
            given.setdefault(path, Given(path, str(path), by_name=True))
            continue
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise InputError("the pattern matches no file", where=name)
        for match in (path for path in map(Path, matches) if not is_store(path)):
            given.setdefault(match, Given(match, str(match), by_name=False))
    for path in (path for path in given if isinstance(path, Path)):
        # Reading a pipe or device for its digest would never end.
        if path.exists() and not (path.is_file() or path.is_dir()):
            hint = "`-` reads standard input"
            raise InputError("neither a file nor a folder", where=str(path), hint=hint)
    return list(given.values())


def list_inputs(config: ExtractConfig) -> Listing:
    """Files of `config.input`; in folders, hidden files and symbolic links are skipped.

    Raises:
        InputError: a path is missing, or the format of an explicitly named file is unknown.
    """
    files: dict[str, InputFile] = {}
    skipped: list[Skipped] = []
    for given in expand(config.input):
        if not isinstance(given.path, RemoteFile) and not given.path.exists():
            raise InputError("no such file or folder", where=str(given.path))
        for file in _below(given.path):
            form = config.format if config.format != "auto" else format_of_name(file.name)
            explicit = given.by_name and file == given.path
            if form is None and explicit:
                hint = f"pass --format; known names: {KNOWN_NAMES}"
                raise InputError("unknown file format", where=str(file), hint=hint)
            reason = _reason_to_skip(form, config)
            if reason == "not_installed" and explicit:
                library, remedy = FORMATS[str(form)].missing() or ("", "")
                raise InputError(f"reading {form} files needs {library}", where=str(file), hint=remedy)
            source = given.name if file == given.path else str(file)
            if reason is None:
                files.setdefault(str(file), InputFile(file, valid_text(source), str(form)))
            else:
                skipped.append(Skipped(valid_text(source), valid_text(Path(file.name).suffix.lower()), reason))
    return Listing(tuple(files.values()), tuple(skipped))


def libraries(config: ExtractConfig, inputs: Iterable[Given]) -> dict[str, str]:
    """Version of the PDF library, or that there is none, if there are files for it."""
    if "pdf" not in config.formats or config.format not in ("auto", "pdf"):
        return {}
    present = (given.path for given in inputs if isinstance(given.path, RemoteFile) or given.path.exists())
    names = (file.name for path in present for file in _below(path))
    if config.format != "pdf" and not any(format_of_name(name) == "pdf" for name in names):
        return {}
    return {"pypdfium2": "not installed" if FORMATS["pdf"].missing() else version("pypdfium2")}


def _reason_to_skip(form: str | None, config: ExtractConfig) -> str | None:
    if form is None:
        return "unknown_format"
    if form not in config.formats:
        return "format_left_out"
    return "not_installed" if FORMATS[form].missing() else None


def _below(path: Path) -> Iterator[Path]:
    if isinstance(path, RemoteFile) or not path.is_dir():
        yield path
        return
    for file in plain_files(path):
        if not any(part.startswith(".") for part in file.relative_to(path).parts):
            yield file


def crawl_files(crawl: Artifact) -> list[InputFile]:
    """The WARC files of a crawl artifact, in order."""
    names = sorted(path.name for path in crawl.path.iterdir() if format_of_name(path.name) == "warc")
    return [InputFile(crawl.path / name, f"{crawl.id}/{name}", "warc") for name in names]
