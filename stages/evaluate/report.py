"""report.md: an evaluation as tables that people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longcat.pipeline.printable import one_line
from longcat.stages.evaluate.compare import weighted_mean

Row = Sequence[str]


def render_report(evaluation: dict[str, Any]) -> str:
    """The report of an evaluation (the content of evaluation.json) in Markdown."""
    parts = ["# Evaluation", _loss_section(evaluation)]
    if any(result["needle"]["cells"] or result["needle"]["skipped"] for result in evaluation["checkpoints"]):
        parts.append(_needle_section(evaluation))
    parts.append("Continuations of the fixed prompts stand in `samples.jsonl`, all figures in `evaluation.json`.")
    return "\n\n".join(parts) + "\n"


def _loss_section(evaluation: dict[str, Any]) -> str:
    validation, unigram = evaluation["validation"], evaluation["unigram"]
    intro = (
        f"Every checkpoint read the same {validation['windows']} validation windows of "
        f"{validation['sequence_length']} tokens: {validation['scored_tokens']:,} scored tokens, "
        f"{validation['scored_bytes']:,} bytes of text (tokens `{evaluation['tokens']}`). Loss is in nats a token, "
        "with its standard error; bits per byte are comparable between tokenizers, loss and perplexity are not. "
        "Unigram is the floor to beat: it knows how often each token occurs and nothing else."
    )
    rows = [[_plain(result["label"]), *_loss_cells(result["validation"])] for result in evaluation["checkpoints"]]
    losses = _table(["checkpoint", "loss", "bits per byte", "perplexity"], [*rows, ["unigram", *_loss_cells(unigram)]])
    header = ["checkpoint", "id", "parameters", "activated", "context", "trained on", "FFN experts"]
    models = _table(header, [_identity_cells(result) for result in evaluation["checkpoints"]])
    return f"## Validation loss\n\n{losses}\n\n{intro}\n\n{models}"


def _identity_cells(result: dict[str, Any]) -> list[str]:
    return [
        _plain(result["label"]),
        f"`{result['id'][:8]}`",
        _amount(result["parameters"]),
        _amount(result["activated_parameters"]),
        f"{result['context']:,}",
        _amount(result["training_tokens"]) + " tokens",
        f"{result['validation']['ffn_experts']:.2f}",
    ]


def _loss_cells(loss: dict[str, float]) -> list[str]:
    error = f" ± {loss['standard_error']:.4f}" if loss["standard_error"] else ""
    return [f"{loss['loss']:.4f}{error}", f"{loss['bits_per_byte']:.4f}", f"{loss['perplexity']:.2f}"]


def _needle_section(evaluation: dict[str, Any]) -> str:
    needle = evaluation["needle"]
    intro = (
        f"Share of needles whose answer has the highest log-probability among {needle['candidates']} candidates, by "
        f"length and depth (0: start of the text, 1: right before the question). Chance is "
        f"{needle['chance_top1']:.3f}; chance of the mean rank is {needle['chance_mean_rank']:g}. Written out: the "
        "answer appears token by token in greedy decoding, which chance practically never does."
    )
    parts = [_needle_table(result) for result in evaluation["checkpoints"]]
    return "\n\n".join(["## Needle in a haystack", *parts, intro])


def _needle_table(result: dict[str, Any]) -> str:
    cells = result["needle"]["cells"]
    depths = sorted({cell["depth"] for cell in cells})
    rows = []
    for length in dict.fromkeys(cell["length"] for cell in cells):
        here = [cell for cell in cells if cell["length"] == length]
        by_depth = {cell["depth"]: cell for cell in here}
        shares = [f"{by_depth[depth]['top1']:.2f}" for depth in depths]
        rows.append(
            [f"{length:,}", *shares, *(f"{weighted_mean(here, name):.2f}" for name in ("mean_rank", "exact_match"))]
        )
    count = cells[0]["trials"] if cells else 0
    trials = f" ({count} needle{'s' * (count > 1)} a cell)" if cells else ""
    header = ["length", *(f"depth {depth:g}" for depth in depths), "mean rank", "written out"]
    skipped = [f"Length {item['length']:,} was skipped: {item['reason']}." for item in result["needle"]["skipped"]]
    parts = [f"### {_plain(result['label'])}{trials}", *([_table(header, rows)] if rows else []), *skipped]
    return "\n\n".join(parts)


def _table(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _amount(count: int) -> str:
    """1234567 as 1.23M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return str(count)


def _plain(text: str) -> str:
    """A label as plain text in a table cell or a heading."""
    return "".join(f"\\{sign}" if sign in "\\|`*_<>[]#" else sign for sign in one_line(text))
