"""Discovery of local pages from files and metadata, without importing modules."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, distributions
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from longcat.stages.data.collect.config import LocalConfig, PageKind

# WARC readers expect HTTP headers only for http URLs; local pages use localhost as their site.
SITE = "http://localhost"


@dataclass(frozen=True)
class Candidate:
    """A page to render. `target` is a module, a distribution or a file; `file` determines the record's date."""

    kind: PageKind
    url: str
    target: str
    file: str


def find_candidates(config: LocalConfig) -> list[Candidate]:
    """Pages to try, in order, at most `config.limit`."""
    finders = {"stdlib": _stdlib, "package": _packages, "description": _descriptions, "html": _html}
    streams = [sorted(finders[kind](config), key=_order) for kind in config.kinds]
    turns = [candidate for turn in zip_longest(*streams) for candidate in turn if candidate is not None]
    return turns[: config.limit]


def _order(candidate: Candidate) -> bytes:
    return hashlib.sha256(candidate.url.encode()).digest()


def machine_fingerprint(html_folders: Iterable[str]) -> dict[str, str]:
    """Digests of the page sources: interpreter, distributions, sizes and dates of documents."""
    roots = sorted({Path(str(found.locate_file(""))) for found in distributions()})
    # Records contain file dates, so reinstalling the same version counts as a change.
    installed = [f"{path.name} {path.stat().st_mtime_ns}" for root in roots for path in sorted(root.glob("*.*-info"))]
    documents = [
        f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for folder in html_folders for path in _pages(folder)
    ]
    return {
        "python": sys.version,
        "distributions": hashlib.sha256("\n".join(installed).encode()).hexdigest(),
        "documents": hashlib.sha256("\n".join(documents).encode()).hexdigest(),
    }


def _name(found: Distribution) -> str:
    return (found.metadata["Name"] or "").lower().replace("_", "-")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _stdlib(config: LocalConfig) -> Iterator[Candidate]:
    folder = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names):
        for module, file in _modules_of(folder, name):
            if not _matches(module, config.skip_modules):
                yield Candidate("stdlib", f"{SITE}/pydoc/{module}.html", module, str(file))


def _modules_of(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """A top-level module and, for a package, its modules."""
    if (folder / name / "__init__.py").is_file():
        for file in sorted((folder / name).rglob("*.py")):
            if module := _module_name(PurePosixPath(file.relative_to(folder).as_posix())):
                yield module, file
    elif (folder / f"{name}.py").is_file():
        yield name, folder / f"{name}.py"
    elif name in sys.builtin_module_names or any((folder / "lib-dynload").glob(f"{name}.*")):
        yield name, Path(sys.executable)


def _module_name(path: PurePosixPath) -> str | None:
    """`json/decoder.py` to `json.decoder`; None for files that are not modules."""
    parts = list(path.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else None


def _chosen(config: LocalConfig) -> Iterator[Distribution]:
    seen = set()
    for found in sorted(distributions(), key=_name):
        name = _name(found)
        wanted = _matches(name, config.packages) and not _matches(name, config.skip_packages)
        if name and name not in seen and wanted:
            seen.add(name)
            yield found


def _packages(config: LocalConfig) -> Iterator[Candidate]:
    for found in _chosen(config):
        pages = []
        for file in found.files or ():
            module = _module_name(file) if file.suffix == ".py" else None
            if module and not _matches(module, config.skip_modules):
                pages.append(Candidate("package", f"{SITE}/pydoc/{module}.html", module, str(found.locate_file(file))))
        yield from sorted(pages, key=_order)[: config.pages_per_package]


def _descriptions(config: LocalConfig) -> Iterator[Candidate]:
    for found in _chosen(config):
        name = _name(found)
        folder = next((file for file in found.files or () if file.name == "METADATA"), None)
        if folder is not None:
            file = str(found.locate_file(folder))
            yield Candidate("description", f"{SITE}/description/{name}/{found.version}", name, file)


def _html(config: LocalConfig) -> Iterator[Candidate]:
    for folder in config.html_folders:
        for path in _pages(folder):
            yield Candidate("html", SITE + quote(path.absolute().as_posix()), str(path), str(path))


def _pages(folder: str) -> Iterator[Path]:
    for path in sorted(Path(folder).rglob("*.htm*")):
        plain = path.suffix in (".html", ".htm") and path.is_file() and not path.is_symlink()
        # Unreadable documents are omitted, which changes the fingerprint.
        if plain and os.access(path, os.R_OK):
            yield path
