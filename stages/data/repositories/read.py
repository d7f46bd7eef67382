"""Files of a repository from a folder or a tar archive."""

from __future__ import annotations

import importlib.util
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from posixpath import splitext

from longcat.pipeline.errors import ConfigError, InputError

_SUFFIXES = """
.py .pyi .pyx .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .rs .go .java .kt .scala .js .mjs .cjs .jsx .ts .tsx .cs .rb .php
.pl .pm .lua .r .jl .hs .ml .ex .erl .clj .swift .sql .sh .bash .md .rst .txt .toml .cfg .ini .yaml .yml
"""
SUFFIXES = frozenset(_SUFFIXES.split())
NAMES = frozenset(("Makefile", "Dockerfile", "go.mod", "README", "LICENSE"))
# Not written in this repository, or not by hand.
LEFT_OUT = frozenset(("node_modules", "__pycache__", "vendor", "third_party"))
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Read:
    """Texts by path, number of files, and files left out by reason."""

    def __init__(self, max_characters: int) -> None:
        self.max_characters = max_characters
        self.texts: dict[str, str] = {}
        self.files = 0
        self.dropped: Counter[str] = Counter()

    def wants(self, path: str, size: int) -> bool:
        """Count a file, and tell whether to read it."""
        self.files += 1
        known = splitext(path)[1].lower() in SUFFIXES or path.rpartition("/")[2] in NAMES
        # A character has at most four bytes.
        reason = "other_type" if not known else "long_file" if size > 4 * self.max_characters else None
        self.dropped.update([reason] if reason else [])
        return reason is None

    def add(self, path: str, data: bytes) -> None:
        """Add a file that is text."""
        try:
            self.add_text(path, data.decode("utf-8-sig"))
        except UnicodeDecodeError:
            self.dropped["not_utf8"] += 1

    def add_text(self, path: str, text: str) -> None:
        """Add a text."""
        reason = None
        if not text.strip():
            reason = "empty"
        elif "\0" in text:
            reason = "not_utf8"
        elif len(text) > self.max_characters:
            reason = "long_file"
        elif path in self.texts:
            reason = "same_path"
        if reason is None:
            self.texts[path] = text.replace("\r\n", "\n")
        else:
            self.dropped[reason] += 1


def repository_name(path: Path) -> str:
    """Name of the repository in a folder or archive."""
    name = path.resolve().name
    return next((name.removesuffix(end) for end in sorted(ARCHIVES, key=len, reverse=True) if name.endswith(end)), name)


def module_folder(name: str) -> Path:
    """Folder of an installed Python package; the package is not imported, those above it are.

    Raises:
        ConfigError: there is no such package, or it is no folder of Python files.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise ConfigError(f"modules: no installed package {name!r}", hint="give import names, such as longcat or numpy")
    return Path(spec.origin).parent


def left_out(path: str) -> bool:
    """Whether a folder of the path is hidden, or holds what is not of the repository."""
    return any(part.startswith(".") or part in LEFT_OUT for part in path.split("/")[:-1])


def read_repository(path: Path, max_characters: int) -> Read:
    """Read a folder or archive.

    Raises:
        InputError: it is neither, or damaged.
    """
    read = Read(max_characters)
    if path.is_dir():
        _read_files(repository_files(path), read)
        return read
    try:
        with tarfile.open(path) as archive:
            _read_archive(archive, read)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"cannot be read as a tar archive: {error}", where=str(path)) from None
    return read


def read_module(name: str, max_characters: int) -> Read:
    """Read an installed package. Raises as `module_folder`."""
    read = Read(max_characters)
    _read_files(module_files(name), read)
    return read


def module_files(name: str) -> Iterator[tuple[str, Path]]:
    """Files of an installed package by path, from the name on, as imports write it.

    An installation for development may link to its folders.
    """
    for path, file in repository_files(module_folder(name), links=True):
        yield f"{name.replace('.', '/')}/{path}", file


def _read_files(files: Iterable[tuple[str, Path]], read: Read) -> None:
    for name, file in files:
        if read.wants(name, file.stat().st_size):
            read.add(name, file.read_bytes())


def repository_files(root: Path, *, links: bool = False) -> Iterator[tuple[str, Path]]:
    """Regular files by path, without links; with `links` those to folders are followed, each folder once."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=links):
        seen.add(os.path.realpath(folder))
        kept = (name for name in sorted(folders) if not left_out(f"{name}/"))
        folders[:] = [name for name in kept if os.path.realpath(Path(folder, name)) not in seen]
        for name in sorted(names):
            file = Path(folder) / name
            if file.is_file() and not file.is_symlink():
                yield file.relative_to(root).as_posix(), file


def _read_archive(archive: tarfile.TarFile, read: Read) -> None:
    """Read the files of an archive, without the folder that holds all of them."""
    members = [(member.name.removeprefix("./"), member) for member in archive.getmembers() if member.isreg()]
    tops = {name.partition("/")[0] if "/" in name else None for name, _ in members}
    top = next(iter(tops)) if len(tops) == 1 else None
    prefix = f"{top}/" if top else ""
    for name, member in sorted(members, key=lambda pair: pair[0]):
        path = name.removeprefix(prefix)
        if left_out(path) or not read.wants(path, member.size):
            continue
        stream = archive.extractfile(member)
        if stream is not None:
            read.add(path, stream.read())
