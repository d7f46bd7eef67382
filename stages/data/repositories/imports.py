"""Files of a repository that a file imports. Python by its syntax tree, other languages by their import lines.

A name that is found nowhere in the repository is an import of something else and ignored.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from posixpath import dirname, normpath, splitext

_C = frozenset((".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cu", ".cuh"))
_SCRIPT = (".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs")
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"\n]+)[>\"]", re.MULTILINE)
_FROM = re.compile(r"(?:\bfrom|\bimport|\brequire[ \t]*\(|\bimport[ \t]*\()[ \t]*['\"](\.[^'\"\n]*)['\"]")
_GO_BLOCK = re.compile(r"^import[ \t]*(?:\(([^)]*)\)|([^\n]*))", re.MULTILINE)
_GO_MODULE = re.compile(r"^module[ \t]+(\S+)", re.MULTILINE)
_QUOTED = re.compile(r"\"([^\"\n]+)\"")
_RUST_MOD = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?mod[ \t]+(\w+)[ \t]*;", re.MULTILINE)
_RUST_USE = re.compile(r"\buse[ \t]+crate::((?:\w+::)*\w+)")
_JAVA = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+(?:\.\*)?)[ \t]*;", re.MULTILINE)
_PYTHON_LINE = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+([\w.]+))", re.MULTILINE)


class Files:
    """Paths of a repository, by their ends and folders."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_folder: dict[str, list[str]] = defaultdict(list)
        for path in sorted(texts, key=lambda at: (at.count("/"), at)):
            self._by_name[path.rpartition("/")[2]].append(path)
            self._by_folder[dirname(path)].append(path)
        found = (_GO_MODULE.search(texts[path]) for path in self._by_name.get("go.mod", ()))
        self.go_module = next((match[1] for match in found if match), "")

    def has(self, *paths: str) -> list[str]:
        """The first of the paths that exists, if any."""
        return next(([path] for path in map(normpath, paths) if path in self.texts), [])

    def ending(self, end: str) -> list[str]:
        """The path that is `end` or ends with it after a folder; of several the one in the fewest folders."""
        name = end.rpartition("/")[2]
        return next(([path] for path in self._by_name.get(name, ()) if f"/{path}".endswith(f"/{end}")), [])

    def within(self, folder: str) -> list[str]:
        """Paths directly in a folder."""
        return self._by_folder.get(normpath(folder) if folder else "", [])


def imported(path: str, files: Files) -> list[str]:
    """Paths of the files that `path` imports."""
    suffix = splitext(path)[1].lower()
    find = _FINDERS.get(suffix)
    return [] if find is None else list(find(path, files.texts[path], files))


def _python(path: str, text: str, files: Files) -> Iterator[str]:
    here = dirname(path)
    for level, module, names in _python_imports(text):
        base = module.replace(".", "/")
        if level:
            folder = normpath("/".join((here or ".", *[".."] * (level - 1))))
            base = normpath(f"{folder}/{base}") if base else folder
            yield from files.has(f"{base}.py", f"{base}/__init__.py")
            for name in names:
                yield from files.has(f"{base}/{name}.py", f"{base}/{name}/__init__.py")
            continue
        for end in (base, *(f"{base}/{name}" for name in names)):
            yield from _python_module(end, here, files)


def _python_module(end: str, here: str, files: Files) -> list[str]:
    """A module by its whole name. One without a package may have the name of a library: only in the usual places."""
    if "/" in end:
        return files.ending(f"{end}.py") or files.ending(f"{end}/__init__.py")
    roots = ("", "src/", "lib/", f"{here}/" if here else "")
    return files.has(*(f"{root}{end}{tail}" for root in roots for tail in (".py", "/__init__.py")))


def _python_imports(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Level, module and names of every import; by lines if the file is not of this version of Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        for found in _PYTHON_LINE.finditer(text):
            name = found[1] or found[2]
            module = name.lstrip(".")
            yield len(name) - len(module), module, []
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


def _c(path: str, text: str, files: Files) -> Iterator[str]:
    for found in _INCLUDE.finditer(text):
        name = normpath(found[2].strip())
        own = files.has(f"{dirname(path)}/{name}" if dirname(path) else name) if found[1] == '"' else []
        # A header of the system has no folder, or one that is not here.
        yield from own or (files.ending(name) if found[1] == '"' or "/" in name else [])


def _script(path: str, text: str, files: Files) -> Iterator[str]:
    for found in _FROM.finditer(text):
        base = normpath(f"{dirname(path) or '.'}/{found[1]}")
        stem = re.sub(r"\.(?:js|mjs|cjs|jsx)$", "", base)
        ends = [f"{at}{suffix}" for at in (base, stem) for suffix in _SCRIPT]
        yield from files.has(base, *ends, *(f"{base}/index{suffix}" for suffix in _SCRIPT))


def _go(path: str, text: str, files: Files) -> Iterator[str]:
    module = files.go_module
    for block in _GO_BLOCK.finditer(text):
        for found in _QUOTED.finditer(block[1] or block[2] or ""):
            name = found[1]
            if module and (name == module or name.startswith(f"{module}/")):
                inside = files.within(name[len(module) + 1 :])
                yield from (at for at in inside if at.endswith(".go") and not at.endswith("_test.go"))


def _rust(path: str, text: str, files: Files) -> Iterator[str]:
    stem, here = splitext(path.rpartition("/")[2])[0], dirname(path)
    folder = here if stem in ("main", "lib", "mod") else f"{here}/{stem}" if here else stem
    prefix = f"{folder}/" if folder else ""
    for found in _RUST_MOD.finditer(text):
        yield from files.has(f"{prefix}{found[1]}.rs", f"{prefix}{found[1]}/mod.rs")
    root = path[: path.rindex("src/") + 4] if "src/" in path else ""
    for found in _RUST_USE.finditer(text):
        parts = found[1].split("::")
        ends = [f"{root}{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
        yield from files.has(*(f"{end}{tail}" for end in ends for tail in (".rs", "/mod.rs")))


def _java(path: str, text: str, files: Files) -> Iterator[str]:
    for found in _JAVA.finditer(text):
        name = found[1].replace(".", "/")
        if not name.endswith("/*"):
            # The last part may be a member of the class.
            yield from files.ending(f"{name}.java") or files.ending(f"{dirname(name)}.java")
            continue
        tail = f"/{name[:-2]}"
        yield from (at for at in files.texts if at.endswith(".java") and f"/{dirname(at)}".endswith(tail))


_FINDERS: dict[str, Callable[[str, str, Files], Iterable[str]]] = {
    **dict.fromkeys((".py", ".pyi"), _python),
    **dict.fromkeys(_C, _c),
    **dict.fromkeys((".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs"), _script),
    ".go": _go,
    ".rs": _rust,
    ".java": _java,
}
