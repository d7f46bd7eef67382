"""Source code, by file extension."""

from __future__ import annotations

from typing import Any

from longcat.stages.data.extract.compression import suffix_of
from longcat.stages.data.extract.formats.base import OneRecord
from longcat.stages.data.extract.records import InputFile

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


class Code(OneRecord):
    """Source code; its language is recorded."""

    name = "code"
    suffixes = tuple(PROGRAMMING_LANGUAGES)

    def metadata(self, file: InputFile) -> dict[str, Any]:
        language = PROGRAMMING_LANGUAGES.get(suffix_of(file.path.name)[0])
        return {"programming_language": language} if language else {}
