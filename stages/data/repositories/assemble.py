"""One repository as documents: its files in dependency order, each below a line with its path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from posixpath import splitext

from longcat.pipeline.documents import Document
from longcat.stages.data.repositories.imports import Files, imported
from longcat.stages.data.repositories.order import dependency_order

SOURCE = "repositories"
_SLASHES = (
    *(".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cu", ".cuh", ".rs", ".go", ".java", ".kt", ".scala"),
    *(".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".cs", ".php", ".swift"),
)
_DASHES = frozenset((".sql", ".lua", ".hs"))


def heading(path: str) -> str:
    """The line above a file: its path, as a comment of its language."""
    suffix = splitext(path)[1].lower()
    return f"{'//' if suffix in _SLASHES else '--' if suffix in _DASHES else '#'} {path}"


def repository_documents(name: str, texts: Mapping[str, str], max_characters: int) -> Iterator[Document]:
    """Documents of one repository from the text of every path: one, or several of at most `max_characters` each.

    Files are never cut; one that is longer is a document of its own. Readmes of the top folder come first.
    """
    files = Files(texts)
    ordered = dependency_order({path: imported(path, files) for path in texts})
    first = [path for path in ordered.paths if "/" not in path and path.lower().startswith("readme")]
    parts: list[list[str]] = []
    size = 0
    pieces = {path: f"{heading(path)}\n{texts[path].strip()}\n" for path in ordered.paths}
    for path in [*first, *(path for path in ordered.paths if path not in first)]:
        if not parts or size + len(pieces[path]) + 1 > max_characters:
            parts.append([])
            size = 0
        parts[-1].append(path)
        size += len(pieces[path]) + 1
    for number, paths in enumerate(parts, start=1):
        yield Document(
            id=name if len(parts) == 1 else f"{name}#{number}",
            text="\n".join(pieces[path] for path in paths),
            source=SOURCE,
            metadata={
                "repository": name,
                "paths": paths,
                "circular_imports": ordered.circles,
                **({"part": number, "parts": len(parts)} if len(parts) > 1 else {}),
            },
        )
