"""What a file or a content type holds, told from its name."""

from __future__ import annotations

from pathlib import PurePath

FORMATS = ("warc", "html", "jsonl", "parquet", "text", "markdown", "rst", "code", "notebook")

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

_EXTENSIONS = {
    ".warc": "warc",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "rst",
    ".ipynb": "notebook",
}

PROGRAMMING_LANGUAGES = {
    ".py": "python",
    ".pyi": "python",
    ".pyx": "cython",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".cxx": "cpp",
    ".hh": "cpp",
    ".hpp": "cpp",
    ".cu": "cuda",
    ".cuh": "cuda",
    ".rs": "rust",
    ".go": "go",
    ".java": "java",
    ".kt": "kotlin",
    ".scala": "scala",
    ".js": "javascript",
    ".mjs": "javascript",
    ".jsx": "javascript",
    ".ts": "typescript",
    ".tsx": "typescript",
    ".cs": "csharp",
    ".rb": "ruby",
    ".php": "php",
    ".pl": "perl",
    ".pm": "perl",
    ".lua": "lua",
    ".r": "r",
    ".jl": "julia",
    ".hs": "haskell",
    ".ml": "ocaml",
    ".ex": "elixir",
    ".erl": "erlang",
    ".clj": "clojure",
    ".swift": "swift",
    ".sql": "sql",
    ".sh": "shell",
    ".bash": "shell",
    ".f90": "fortran",
    ".f": "fortran",
    ".asm": "assembly",
    ".s": "assembly",
    ".tex": "tex",
    ".cmake": "cmake",
}

_CONTENT_TYPES = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/plain": "text",
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
    "application/x-ipynb+json": "notebook",
    "text/x-rst": "rst",
    "text/prs.fallenstein.rst": "rst",
}


def format_of_name(name: str) -> str | None:
    """The format a file name promises, compression suffix aside; None for names that promise nothing known.

    `.json` is JSON lines only when compressed, as web corpora publish it; a plain `.json` is mostly one value.
    """
    path = PurePath(name.lower())
    compressed = path.suffix in COMPRESSIONS
    suffix = path.with_suffix("").suffix if compressed else path.suffix
    if suffix == ".json" and compressed:
        return "jsonl"
    if suffix in PROGRAMMING_LANGUAGES:
        return "code"
    return _EXTENSIONS.get(suffix)


def compression_of(name: str, first: bytes) -> str:
    """gzip, zstd or none: by the file's first bytes, and by its name where those are damaged."""
    if first.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if first.startswith(b"\x28\xb5\x2f\xfd") or first[1:4] == b"\x2a\x4d\x18":
        return "zstd"
    return COMPRESSIONS.get(PurePath(name.lower()).suffix, "none") if first else "none"


def programming_language(name: str) -> str | None:
    """Language of a source file by its extension, None where it is none."""
    path = PurePath(name.lower())
    path = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    return PROGRAMMING_LANGUAGES.get(path.suffix)


def kind_of_content_type(content_type: str) -> str | None:
    """html, text, markdown, rst or notebook for a content type without its parameters; None for all others."""
    return _CONTENT_TYPES.get(content_type.strip().lower())
