"""`curriculum.json` of a tokens artifact: its stages, in the order in which they are trained on.

The training documents of a stage lie together in the token file, the stages one after the other.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import atomic_write, pretty_json, read_json

CURRICULUM_FILE = "curriculum.json"


class CurriculumStage(BaseModel):
    """One stage: its name, and how many training documents and tokens it has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    documents: int = Field(ge=1)
    tokens: int = Field(ge=1)


class Curriculum(BaseModel):
    """All stages of a tokens artifact, in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: tuple[CurriculumStage, ...] = Field(min_length=1)


def write_curriculum(folder: Path, stages: list[CurriculumStage]) -> None:
    """Write the stages beside the tokens."""
    atomic_write(folder / CURRICULUM_FILE, pretty_json(Curriculum(stages=tuple(stages)).model_dump()))


def read_curriculum(folder: Path, documents: int) -> tuple[CurriculumStage, ...]:
    """The stages of a tokens artifact of so many training documents; none where they have no order.

    Raises:
        IntegrityError: the file cannot be read, or its stages do not have as many documents.
    """
    path = folder / CURRICULUM_FILE
    if not path.is_file():
        return ()
    try:
        stages = Curriculum.model_validate(read_json(path)).stages
    except (ValueError, ValidationError) as error:
        raise IntegrityError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from None
    if sum(stage.documents for stage in stages) != documents:
        found = sum(stage.documents for stage in stages)
        raise IntegrityError(f"its stages have {found} documents, the tokens {documents}", where=str(path))
    return stages
