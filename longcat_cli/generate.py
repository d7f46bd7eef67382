"""`longcat generate`: texts and conversations continued by a checkpoint, one or a file of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.cli.inference_options import (
    Checkpoint,
    Deterministic,
    Device,
    Drafts,
    Dtype,
    Seed,
    Set,
    Temperature,
    Threads,
    TopK,
    TopP,
    Weights,
    checkpoint_folder,
    configured_sections,
    engine_values,
)
from longcat.cli.sampling_options import (
    Choices,
    FrequencyPenalty,
    JsonSchema,
    MinP,
    MinTokens,
    PresencePenalty,
    RepetitionPenalty,
    Stop,
    read_schema,
    sampling_values,
)
from longcat.cli.settings import settings_of

if TYPE_CHECKING:
    from longcat.stages.inference.engine import InferenceEngine
    from longcat.stages.inference.options import EngineOptions
    from longcat.stages.inference.sampling import SamplingParams

DEFAULT_TOKENS = 128


def register(root: typer.Typer) -> None:
    """Register the command."""
    root.command("generate")(generate)


def generate(
    ctx: typer.Context,
    checkpoint: Checkpoint,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text to continue (default: stdin).")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Continue the text of a file; one newline at its end is dropped."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="JSONL", help="A file of prompts: objects with prompt or messages, id, and own values."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="JSONL", help="File for the answers to --input; a rerun continues it."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", min=1, help=f"Maximum length, in tokens (default: {DEFAULT_TOKENS}, or what fits)."
        ),
    ] = None,
    temperature: Temperature = 0.8,
    top_p: TopP = 0.95,
    top_k: TopK = None,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    choices: Choices = 1,
    json_schema: JsonSchema = None,
    min_tokens: MinTokens = 0,
    repetition_penalty: RepetitionPenalty = 1.0,
    presence_penalty: PresencePenalty = 0.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    weights: Weights = None,
    drafts: Drafts = None,
    deterministic: Deterministic = False,
    assignments: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print prompt and text as JSON.")] = False,
) -> None:
    """Continue a text, or every line of a JSONL file.

    Examples:

      [cyan]longcat generate --checkpoint extended --prompt "The function returns"[/cyan]

      [cyan]echo "A list is" | longcat generate --checkpoint extended --temperature 0 --json[/cyan]

      [cyan]longcat generate --checkpoint extended --input prompts.jsonl --output answers.jsonl[/cyan]
    """
    from longcat.cli import generate_file
    from longcat.cli.console import make_progress
    from longcat.cli.prompts import prompt_text
    from longcat.pipeline.config import build_config
    from longcat.pipeline.errors import UsageError
    from longcat.stages.inference.options import EngineOptions

    _check_sources({"--prompt": prompt, "--file": file, "--input": source}, output)
    penalties = (repetition_penalty, presence_penalty, frequency_penalty)
    sampling = sampling_values(temperature, top_p, top_k, min_p, min_tokens, penalties, seed, stop)
    progress = make_progress(quiet=settings_of(ctx).quiet)
    configured = configured_sections(("engine",), None, assignments or ())["engine"]
    given = {**configured, **engine_values(weights, drafts, deterministic=deterministic)}
    options = build_config(EngineOptions, given, "engine")
    words: dict[str, Any] = {"device": device, "dtype": dtype, "threads": threads, "options": options}
    words["progress"] = progress
    asked = _Asked(sampling, max_tokens, choices, read_schema(json_schema))
    if source is not None:
        folder = checkpoint_folder(ctx, checkpoint)
        numbers = {"dtype": dtype, "weights": options.weights, **_offload_values(options)}
        defaults = {**asked.defaults(), "numbers": numbers}
        generate_file.run(folder, source, output, defaults, words, as_json=as_json)
        return
    if choices > 1 and not as_json:
        raise UsageError(f"{choices} answers cannot be told apart as text", hint="add --json")
    text = prompt_text(prompt, file)
    _one(checkpoint, checkpoint_folder(ctx, checkpoint), text, asked, words, as_json=as_json)


@dataclass(frozen=True)
class _Asked:
    """What to generate, for every prompt. `sampling` holds fields of `SamplingParams`, without `max_tokens`."""

    sampling: dict[str, Any]
    max_tokens: int | None
    choices: int
    schema: dict[str, Any] | None

    def defaults(self) -> dict[str, Any]:
        """Fields of `BatchDefaults`."""
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return {"sampling": {**self.sampling, **limit}, "choices": self.choices, "json_schema": self.schema}

    def params(self, engine: InferenceEngine) -> SamplingParams:
        """Sampling parameters of one prompt.

        Raises:
            InputError: a value is outside its range, or the schema is not valid.
        """
        from longcat.stages.inference.grammar_spec import schema_spec
        from longcat.stages.inference.sampling import SamplingParams
        from longcat.stages.inference.structured import GrammarCompiler

        values = {**self.sampling, "max_tokens": self.max_tokens or DEFAULT_TOKENS}
        if self.schema is not None:
            compiler = GrammarCompiler(engine.tokenizer, engine.stop_token_ids)
            values["grammar"] = compiler.compile(schema_spec(self.schema, "--json-schema"))
        return SamplingParams(**values)


def _check_sources(prompts: dict[str, object], output: Path | None) -> None:
    """Check that at most one source of prompts is given, and an output only with a file of them.

    Raises:
        UsageError: otherwise.
    """
    from longcat.pipeline.errors import UsageError

    given = [flag for flag, value in prompts.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are both given", hint="give one of them")
    if output is not None and prompts["--input"] is None:
        raise UsageError("--output needs --input", hint="redirect the text of one prompt with >")


def _one(checkpoint: str, folder: Path, text: str, asked: _Asked, words: dict[str, Any], *, as_json: bool) -> None:
    from longcat.cli.console import print_json
    from longcat.cli.terminal import write_stream, write_text
    from longcat.stages.inference.generate import complete, continue_text
    from longcat.stages.inference.loading import load_engine

    engine = load_engine(folder, **words)
    params, clip = asked.params(engine), asked.max_tokens is None
    if as_json:
        tokens, found = complete(engine, text, params, choices=asked.choices, clip=clip)
        answers = [{"text": one.text, "finish_reason": one.finish_reason} for one in found]
        figures = {} if engine.options.offload is None else {"offload": _offload_figures(engine)}
        usage = {"prompt_tokens": tokens, "completion_tokens": sum(one.tokens for one in found)}
        print_json(
            {"checkpoint": checkpoint, "prompt": text, **answers[0], "choices": answers, "usage": usage, **figures}
        )
        return
    pieces = continue_text(engine, text, params, clip=clip)
    write_text(text)
    write_stream(pieces)


def _offload_values(options: EngineOptions) -> dict[str, str]:
    """What an offloaded cache changes in texts; nothing without one."""
    if options.offload is None:
        return {}
    return {"offload": options.offload.model_dump_json(exclude={"tier", "folder", "mode", "measure_every"})}


def _offload_figures(engine: InferenceEngine) -> dict[str, Any]:
    cache = engine.core.runner.cache
    stats = cache.offload_stats
    return {
        "cache_bytes": cache.bytes_per_page * cache.pages,
        "resident_bytes": cache.resident_bytes,
        "moved_bytes": stats.moved_bytes,
        "hit_rate": stats.hit_rate,
        "recall": stats.recall,
    }
