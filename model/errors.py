"""Errors about models, configurations and files. Every message says what, where, and what to do."""

from __future__ import annotations

from pydantic import ValidationError

from longcat.model.bounds import shown


class ModelError(ValueError):
    """Unsupported operation of a model."""


class ModelConfigError(ModelError):
    """A configuration is incomplete, contradictory or unsupported."""


class CheckpointError(ModelError):
    """A checkpoint folder is incomplete, damaged, of another layout, or of a format that may run code when loaded."""


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic finds wrong: key, value and reason."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field} = {shown(problem['input'])}: {message}" if field else message
