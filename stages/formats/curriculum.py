"""`curriculum.json` of a tokens artifact: its stages in training order.

The training documents of a stage are contiguous in the token file, in stage order.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import atomic_write, pretty_json, read_json
from longcat.pipeline.validation import reason_of

CURRICULUM_FILE = "curriculum.json"


class CurriculumStage(BaseModel):
    """One stage: name, and number of training documents and tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    documents: int = Field(ge=1)
    tokens: int = Field(ge=1)


class Curriculum(BaseModel):
    """All stages of a tokens artifact, in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: tuple[CurriculumStage, ...] = Field(min_length=1)


def write_curriculum(folder: Path, stages: list[CurriculumStage]) -> None:
    """Write the stages next to the tokens."""
    atomic_write(folder / CURRICULUM_FILE, pretty_json(Curriculum(stages=tuple(stages)).model_dump()))


def read_curriculum(folder: Path, documents: int) -> tuple[CurriculumStage, ...]:
    """Stages of a tokens artifact with this many training documents; empty without a curriculum.

    Raises:
        IntegrityError: the file cannot be read, or the number of documents differs.
    """
    path = folder / CURRICULUM_FILE
    if not path.is_file():
        return ()
    try:
        stages = Curriculum.model_validate(read_json(path)).stages
    except ValueError as error:
        raise IntegrityError(f"cannot be read: {reason_of(error)}", where=str(path)) from None
    if sum(stage.documents for stage in stages) != documents:
        found = sum(stage.documents for stage in stages)
        raise IntegrityError(f"its stages have {found} documents, the tokens {documents}", where=str(path))
    return stages
