"""From what the user named to the files that are read, in a fixed order, and their split into shards."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError
from longcat.pipeline.remote import RemoteFile, is_remote, remote_files
from longcat.pipeline.sources import is_store, plain_files
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.kinds import format_of_name

# A file of these holds many records and makes a shard of its own.
CONTAINERS = ("warc", "jsonl", "parquet")
MAX_FILES_A_SHARD = 10_000
KNOWN_NAMES = ".warc .html .jsonl .json.gz .parquet .txt .md .rst .ipynb and source code, each also with .gz or .zst"


@dataclass(frozen=True)
class InputFile:
    """A file to read; `source` is what documents name it by. A remote file stands in `path` as a path does."""

    path: Path
    source: str
    format: str


@dataclass(frozen=True)
class Listing:
    """The files to read, and those beside them that are passed over: by what they are called, and why."""

    files: tuple[InputFile, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Skipped:
    """A file that is not read. `ending` is that of its name in lower case, empty without one."""

    source: str
    ending: str
    reason: str  # unknown_format, or format_left_out by the option `formats`


@dataclass(frozen=True)
class Given:
    """A path the user gave: by its name, or as one of the matches of a pattern."""

    path: Path
    by_name: bool


def expand(names: Iterable[str]) -> list[Given]:
    """Paths for names and glob patterns, each once, in the order given; matches of a pattern sorted.

    A URL gives the remote files behind it, which are read as paths are.

    Raises:
        InputError: a pattern matches nothing, a path is a pipe or a device, or a remote file cannot be reached. Missing
            paths are left for the reader to name.
    """
    given: dict[str | Path, Given] = {}
    for name in names:
        if is_remote(name):
            for remote in remote_files(name):
                given.setdefault(remote.url, Given(cast("Path", remote), by_name=remote.url == name))
            continue
        path = Path(name).expanduser()
        if path.exists() or not glob.has_magic(name):
            given.setdefault(path, Given(path, by_name=True))
            continue
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise InputError("the pattern matches no file", where=name)
        for match in (path for path in map(Path, matches) if not is_store(path)):
            given.setdefault(match, Given(match, by_name=False))
    for path in (path for path in given if isinstance(path, Path)):
        # Reading a pipe or a device for its digest would never end.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError("neither a file nor a folder", where=str(path))
    return list(given.values())


def list_inputs(config: ExtractConfig) -> Listing:
    """The files behind `config.input`; in folders, hidden files and symbolic links are passed over.

    Raises:
        InputError: a path is missing, or the name of a file named one by one does not tell its format.
    """
    files: dict[str, InputFile] = {}
    skipped: list[Skipped] = []
    for given in expand(config.input):
        if not isinstance(given.path, RemoteFile) and not given.path.exists():
            raise InputError("no such file or folder", where=str(given.path))
        for file in _below(given.path):
            form = config.format if config.format != "auto" else format_of_name(file.name)
            if form is None and given.by_name and file == given.path:
                hint = f"give --format; names known: {KNOWN_NAMES}"
                raise InputError("the name does not tell the format", where=str(file), hint=hint)
            if form in config.formats:
                files.setdefault(str(file), InputFile(file, _printable(file), str(form)))
            else:
                reason = "unknown_format" if form is None else "format_left_out"
                skipped.append(Skipped(_printable(file), Path(file.name).suffix.lower(), reason))
    return Listing(tuple(files.values()), tuple(skipped))


def _printable(path: Path) -> str:
    """The path as text that UTF-8 can hold, whatever bytes its name is made of."""
    return str(path).encode("utf-8", errors="backslashreplace").decode()


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


def split(files: Sequence[InputFile], shard_bytes: int) -> list[tuple[InputFile, ...]]:
    """One shard a container; small files together, in order, until `shard_bytes` are reached."""
    shards: list[tuple[InputFile, ...]] = []
    together: list[InputFile] = []
    size = 0
    for file in files:
        if file.format in CONTAINERS:
            shards.append((file,))
            continue
        together.append(file)
        size += file.path.size if isinstance(file.path, RemoteFile) else file.path.stat().st_size
        if size >= shard_bytes or len(together) >= MAX_FILES_A_SHARD:
            shards.append(tuple(together))
            together, size = [], 0
    if together:
        shards.append(tuple(together))
    return shards
