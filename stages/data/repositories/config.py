"""Configuration of `data.repositories`."""

from __future__ import annotations

from pydantic import Field

from longcat.pipeline.config import StageConfig


class RepositoriesConfig(StageConfig):
    """Where repositories are, and how long their documents may be."""

    input: tuple[str, ...] = Field(default=(), description="Repositories: folders, and tar archives of one each.")
    modules: tuple[str, ...] = Field(
        default=(),
        description="Installed Python packages by import name, whose sources are a repository each, e.g. longcat.",
    )
    repository_key: str = Field(
        default="repository", min_length=1, description="Metadata key of a document with the name of its repository."
    )
    path_key: str = Field(
        default="path", min_length=1, description="Metadata key of a document with its path in the repository."
    )
    max_characters: int = Field(
        default=4_000_000,
        ge=1,
        description="Maximum characters of a document; a larger repository becomes several, between files.",
    )
    max_file_characters: int = Field(
        default=1_000_000, ge=1, description="Files of more characters are left out and counted."
    )
