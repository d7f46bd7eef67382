"""`longcat generate --input`: a JSONL file of prompts, answered through the engine's scheduler."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.pipeline.progress import Progress
    from longcat.stages.inference.batch_file import BatchFile
    from longcat.stages.inference.batch_output import BatchOutput
    from longcat.stages.inference.engine import InferenceEngine
    from longcat.stages.inference.engine_thread import EngineThread

# Requests in the engine for each sequence of a step: enough that no step waits for one.
REQUESTS_PER_SEQUENCE = 4


def run(
    checkpoint: Path,
    source: Path,
    output: Path | None,
    defaults: dict[str, Any],
    words: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Answer every line of `source` into `output`, or on stdout.

    `defaults` are fields of `BatchDefaults`, `words` those of `load_engine`.

    Raises:
        InputError: lines are damaged, or the output is of something else; or lines could not be answered.
        UsageError: there is no `output` for what `as_json` prints.
        InterruptedRunError: a signal arrived; a rerun continues.
    """
    from longcat.cli.console import print_json
    from longcat.pipeline.errors import InputError, InterruptedRunError, UsageError

    if as_json and output is None:
        raise UsageError("--json prints a summary, which would mix with the answers", hint="add --output")
    try:
        summary = _run(checkpoint, source, output, defaults, words)
    except InterruptedRunError:
        if output is None:
            raise
        hint = "run the same command again to resume from here"
        raise InterruptedRunError("interrupted", hint=hint) from None
    if as_json:
        print_json({"input": str(source), "output": str(output), **summary})
    if summary["failed"]:
        what = f"{summary['failed']} of {summary['lines']} lines have an error instead of an answer"
        raise InputError(what, where=str(output or source), hint='see the field "error" of the records')


def _run(
    checkpoint: Path, source: Path, output: Path | None, defaults: dict[str, Any], words: dict[str, Any]
) -> dict[str, int]:
    from longcat.stages.inference.batch_file import BatchDefaults, BatchFile
    from longcat.stages.inference.batch_lines import check_lines
    from longcat.stages.inference.batch_output import open_output
    from longcat.stages.inference.loading import load_engine

    count = check_lines(source)
    chosen = BatchDefaults(checkpoint=checkpoint.resolve().name, **defaults)
    with nullcontext(Stdout()) if output is None else open_output(output, chosen.digests(source)) as sink:
        summary = {"lines": count, "resumed": sink.finished, "failed": sink.failed, "completion_tokens": 0}
        if sink.finished < count:
            file = BatchFile(load_engine(checkpoint, **words), source, chosen)
            _answer(file, sink, chosen.digests(source), summary, words["progress"])
    return summary


def _answer(
    file: BatchFile,
    sink: BatchOutput | Stdout,
    digests: Iterator[tuple[int, str]],
    summary: dict[str, int],
    progress: Progress,
) -> None:
    """Answer the lines that `sink` does not have yet; counts them in `summary`."""
    from longcat.stages.inference.batch_output import record

    begun = time.monotonic()
    done = summary["resumed"]
    rest = islice(digests, done, None)
    with progress.task("generating", total=summary["lines"], unit="lines") as bar, _running(file.engine) as runner:
        bar.advance(done)
        window = REQUESTS_PER_SEQUENCE * file.engine.options.max_sequences
        with closing(file.answers(runner, skip=done, window=window)) as answers:
            for (number, fields), (_, digest) in zip(answers, rest, strict=True):
                sink.write(record(number, digest, fields))
                summary["failed"] += "error" in fields
                summary["completion_tokens"] += fields.get("usage", {}).get("completion_tokens", 0)
                bar.advance()
                rate = summary["completion_tokens"] / max(time.monotonic() - begun, 1e-9)
                bar.set(**{"tokens/s": round(rate, 1), "failed": summary["failed"]})


@contextmanager
def _running(engine: InferenceEngine) -> Iterator[EngineThread]:
    from longcat.stages.inference.engine_thread import EngineThread

    runner = EngineThread(engine, REQUESTS_PER_SEQUENCE * engine.options.max_sequences)
    runner.start()
    try:
        yield runner
    finally:
        runner.close()


class Stdout:
    """Answers on stdout, which cannot be continued."""

    finished = failed = 0

    def write(self, data: bytes) -> None:
        """Write one record; on a terminal with its control characters escaped."""
        from longcat.cli.terminal import write_text

        write_text(data.decode())
        sys.stdout.flush()
