"""`longcat generate --input`: the lines of a JSONL file through the engine, as records in the order of the lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.stages.inference.batch import BatchRequest, Choice, JobRunner, Outcome, run_batch
from longcat.stages.inference.batch_lines import BatchLine, digest_of, parse_line, read_lines
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.grammar import Grammar
from longcat.stages.inference.grammar_spec import schema_spec
from longcat.stages.inference.sampling import MAX_SEED, SamplingParams
from longcat.stages.inference.structured import GrammarCompiler

DEFAULT_TOKENS = 128
# Number of a line and the fields of its record.
Answer = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class BatchDefaults:
    """Values of the command, which a line can replace.

    `sampling` holds fields of `SamplingParams`, without `max_tokens` for `DEFAULT_TOKENS` or what the context has room
    for. Line number k is sampled with `seed` + k - 1, so that equal prompts get different answers. `checkpoint` names
    the model and `numbers` the forms of its weights, so that the answers of others are told apart.
    """

    checkpoint: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    choices: int = 1
    json_schema: Mapping[str, Any] | None = None
    numbers: Mapping[str, str] = field(default_factory=dict)

    def digests(self, source: Path) -> Iterator[tuple[int, str]]:
        """Number and digest of every line of a file; see `batch_lines.digest_of`."""
        command = asdict(self)
        return ((number, digest_of(line, command)) for number, line in read_lines(source))


class BatchFile:
    """The lines of a file and how they are answered."""

    def __init__(self, engine: InferenceEngine, source: Path, defaults: BatchDefaults) -> None:
        """Compile the schema of the command.

        Raises:
            InputError: the schema is not valid.
            UsageError: the library for structured output is missing.
        """
        self.engine = engine
        self._source = source
        self._defaults = defaults
        self._compiler = GrammarCompiler(engine.tokenizer, engine.stop_token_ids)
        if defaults.json_schema is not None:
            self._grammar(defaults.json_schema, "--json-schema")

    def answers(self, runner: JobRunner, *, skip: int, window: int) -> Generator[Answer, None, None]:
        """Number and fields of the record of every line after the first `skip`; see `batch.run_batch`."""
        asked: deque[tuple[int, BatchLine]] = deque()

        def requests() -> Iterator[BatchRequest]:
            for number, text in islice(read_lines(self._source), skip, None):
                line = parse_line(self._source, number, text)
                asked.append((number, line))
                yield self.request(number, line)

        with closing(run_batch(runner, requests(), window)) as outcomes:
            for outcome in outcomes:
                number, line = asked.popleft()
                yield number, _fields(line, outcome)

    def request(self, number: int, line: BatchLine) -> BatchRequest:
        """What the engine does for a line; its `error` says why nothing can be done."""
        try:
            return self._request(number, line)
        except InputError as error:
            return BatchRequest(error=error)

    def _request(self, number: int, line: BatchLine) -> BatchRequest:
        ids = self._ids(line)
        given = {**self._defaults.sampling, **line.sampling()}
        if "max_tokens" not in given:
            # At least one, so that a prompt without room is refused with its length.
            given["max_tokens"] = max(1, min(DEFAULT_TOKENS, self.engine.max_length - len(ids)))
        if line.seed is None and given.get("seed") is not None:
            given["seed"] = min(given["seed"] + number - 1, MAX_SEED)
        schema = line.json_schema or self._defaults.json_schema
        if schema is not None:
            given["grammar"] = self._grammar(schema, "json_schema")
        params = SamplingParams(**given)
        self.engine.check_prompt(ids, params.max_tokens)
        return BatchRequest(ids, params, line.n or self._defaults.choices)

    def _ids(self, line: BatchLine) -> list[int]:
        if line.prompt is not None:
            return self.engine.tokenizer.encode_prompt(line.prompt)
        return self.engine.tokenizer.encode_chat([message.model_dump() for message in line.messages or ()])

    def _grammar(self, schema: Mapping[str, Any], where: str) -> Grammar:
        return self._compiler.compile(schema_spec(schema, where))


def _fields(line: BatchLine, outcome: Outcome) -> dict[str, Any]:
    identity = {} if line.id is None else {"id": line.id}
    if outcome.error is not None:
        return {**identity, "error": str(outcome.error)}
    tokens = sum(choice.tokens for choice in outcome.choices)
    usage = {"prompt_tokens": outcome.prompt_tokens, "completion_tokens": tokens}
    return {**identity, "choices": [_choice(choice) for choice in outcome.choices], "usage": usage}


def _choice(choice: Choice) -> dict[str, Any]:
    return {"text": choice.text, "finish_reason": choice.finish_reason}
