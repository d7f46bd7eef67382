"""Folder with modules named like those of this project, of the standard library and of dependencies."""

from __future__ import annotations

from pathlib import Path

OURS = ("cli", "kernels", "model", "pipeline", "stages", "longcat_cli")
THEIRS = ("numpy", "orjson", "psutil", "pydantic", "rich", "sitecustomize", "torch", "triton", "typer", "yaml")
STANDARD = ("asyncio", "json", "logging", "pickle", "random", "selectors", "socket", "tempfile", "threading", "typing")
CODE = """from pathlib import Path
with Path({log!r}).open("a") as log:
    log.write(__file__ + chr(10))
raise SystemExit("a module of the user's folder was executed")
"""


class PoisonedFolder:
    """Modules `names` in `folder`: each one that is executed is logged and exits its process."""

    def __init__(self, folder: Path, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._log = folder, folder / "executed.log"
        for name in (*OURS, *THEIRS, *STANDARD, *names):
            code = CODE.format(log=str(self._log))
            if name in {"kernels", "torch"}:  # also as a package
                (folder / name).mkdir()
                (folder / name / "__init__.py").write_text(code)
            else:
                (folder / f"{name}.py").write_text(code)

    def executed(self) -> list[str]:
        """Files executed so far."""
        return sorted(set(self._log.read_text().splitlines())) if self._log.exists() else []
