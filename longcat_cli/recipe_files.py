"""Lookup of recipes by name or path."""

from __future__ import annotations

from pathlib import Path


def shipped_folder() -> Path:
    """Folder of the bundled recipes."""
    from longcat.stages import recipes

    return Path(next(iter(recipes.__path__)))


def find_recipe(name: str) -> Path:
    """Resolve the name of a bundled recipe, or a path, to a file.

    Raises:
        InputError: neither exists.
    """
    from longcat.pipeline.errors import InputError

    shipped = shipped_folder() / f"{name}.yaml"
    if "/" not in name and shipped.is_file():
        return shipped
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = ", ".join(sorted(found.stem for found in shipped_folder().glob("*.yaml")))
    raise InputError(f"no recipe {name!r}", hint=f"a YAML file, or one of: {known}")
