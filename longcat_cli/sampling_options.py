"""Options of `longcat generate` for sampling, and the values that they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

PANEL = "Sampling"
MAX_SCHEMA_BYTES = 1 << 20


def _option(help_text: str, *flags: str, **more: Any) -> Any:
    return typer.Option(*flags, help=help_text, rich_help_panel=PANEL, **more)


MinP = Annotated[
    float, _option("Drop tokens below this share of the most likely one's probability.", "--min-p", min=0.0, max=1.0)
]
MinTokens = Annotated[int, _option("Minimum length, in tokens.", "--min-tokens", min=0)]
RepetitionPenalty = Annotated[
    float, _option("Divide the logits of tokens that occurred.", "--repetition-penalty", min=0.01, max=100.0)
]
PresencePenalty = Annotated[
    float, _option("Subtract from the logits of generated tokens.", "--presence-penalty", min=-2.0, max=2.0)
]
FrequencyPenalty = Annotated[
    float, _option("The same, for each time a token occurred.", "--frequency-penalty", min=-2.0, max=2.0)
]
Stop = Annotated[list[str] | None, _option("Stop before this text (repeatable).", "--stop")]
Choices = Annotated[int, _option("Number of answers.", "-n", "--n", min=1, max=128)]
JsonSchema = Annotated[
    Path | None, _option("File with a JSON schema that the answer satisfies.", "--json-schema", metavar="FILE")
]


def sampling_values(
    temperature: float,
    top_p: float,
    top_k: int | None,
    min_p: float,
    min_tokens: int,
    penalties: Sequence[float],
    seed: int | None,
    stop: Sequence[str] | None,
) -> dict[str, Any]:
    """Fields of `SamplingParams`, without `max_tokens`; `penalties` are those of repetition, presence and frequency."""
    repetition, presence, frequency = penalties
    return {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k or 0,
        "min_p": min_p,
        "min_tokens": min_tokens,
        "repetition_penalty": repetition,
        "presence_penalty": presence,
        "frequency_penalty": frequency,
        "seed": seed,
        "stop": tuple(stop or ()),
    }


def read_schema(path: Path | None) -> dict[str, Any] | None:
    """Read a JSON schema.

    Raises:
        InputError: it cannot be read or is not a JSON object; names the file.
    """
    from longcat.pipeline.errors import InputError
    from longcat.pipeline.json_text import parse_json

    if path is None:
        return None
    try:
        with path.expanduser().open("rb") as stream:
            data = stream.read(MAX_SCHEMA_BYTES + 1)
        if len(data) > MAX_SCHEMA_BYTES:
            raise InputError(f"is larger than {MAX_SCHEMA_BYTES:,} bytes", where=str(path))
        value = parse_json(data)
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path)) from None
    except ValueError as error:
        raise InputError(f"is not JSON: {error}", where=str(path)) from None
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", where=str(path))
    return value
