"""Body of stage `evaluate`: the same metrics for every checkpoint, each saved as soon as it is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from longcat.model.accounting import count
from longcat.model.config import ModelConfig
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.files import atomic_write, canonical_json, pretty_json, read_json
from longcat.pipeline.progress import Bar
from longcat.pipeline.stage import Context, Result
from longcat.pipeline.tokens import TokenFile
from longcat.stages.evaluate.check import check_labels, check_window
from longcat.stages.evaluate.config import EvaluateConfig
from longcat.stages.evaluate.drawings import drawings
from longcat.stages.evaluate.loss import Windows, baseline_loss, model_loss, read_windows
from longcat.stages.evaluate.needle import read_haystack
from longcat.stages.evaluate.needle_run import run_needles
from longcat.stages.evaluate.positions import run_positions
from longcat.stages.evaluate.recall import run_recall
from longcat.stages.evaluate.report import render_report
from longcat.stages.evaluate.samples import run_samples
from longcat.stages.formats.checkpoint import check_same_tokenizer, read_model_config
from longcat.stages.formats.training_state import read_state
from longcat.stages.formats.windows import Ids, open_tokens
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.tokenizer import EngineTokenizer
from longcat.stages.train.determinism import reproducible

# Logits of one window must fit in memory.
LONGEST_DEFAULT = 4096
DEFINITIONS = {
    "loss": "mean negative log-likelihood of the scored tokens, nats per token; special tokens are scored",
    "standard_error": "of the loss, with windows as sampling units",
    "bits_per_byte": "sum of the negative log-likelihood of all scored tokens / ln 2 / UTF-8 bytes of the scored "
    "tokens; special tokens count as 0 bytes",
    "perplexity": "exp(loss)",
    "unigram": "unigram model of the training tokens with add-one smoothing",
    "ffn_experts": "FFN experts used per token, mean over tokens and layers",
    "top1": "fraction of needles whose answer has the highest log-probability among the candidates",
    "exact_match": "fraction of needles whose answer the model generates by greedy decoding",
    "answer_logprob": "mean log-probability of the whole answer, nats",
    "recalled": "fraction of facts whose answer has the highest probability, token by token",
    "positions": "loss of the tokens after `from` to `to` - 1 tokens of long documents, nats per token; standard error "
    "with documents as sampling units",
}


@dataclass(frozen=True)
class Material:
    """What every checkpoint reads."""

    windows: Windows
    haystack: Ids
    validation: TokenFile


@dataclass
class Evaluated:
    """One checkpoint and the folder of its saved results."""

    artifact: Artifact
    label: str
    config: ModelConfig
    work: Path
    options: EvaluateConfig
    speed: dict[str, float] = field(default_factory=dict)

    @cached_property
    def engine(self) -> InferenceEngine:
        """Engine, loaded when the first result is missing."""
        options = self.options
        engine = load_engine(self.artifact.path, device=options.device, dtype=options.dtype)
        if options.beyond_context and options.longest > engine.max_length:
            engine.model.config = engine.config.model_copy(update={"max_position_embeddings": options.longest})
        return engine

    def remember(self, name: str, compute: Callable[[], Any]) -> Any:
        """Result `name`: saved by an earlier, interrupted run, or computed and saved now."""
        path = self.work / f"{name}.json"
        with suppress(FileNotFoundError, ValueError):  # ValueError: damaged file
            return read_json(path)
        started = time.monotonic()
        atomic_write(path, canonical_json(compute()))
        self.speed[name] = time.monotonic() - started
        return read_json(path)


def run_evaluation(context: Context[EvaluateConfig]) -> Result:
    """Run stage `evaluate`; see `stages.evaluate`."""
    config, tokens = context.config, context.input("tokens")
    with reproducible(config.threads):
        checkpoints = _checkpoints(context, tokens)
        tokenizer = EngineTokenizer.load(tokens.path)
        validation = open_tokens(tokens.path, "validation")
        length = _sequence_length(config, checkpoints)
        windows = read_windows(validation, length, config, _token_bytes(tokenizer))
        hides = config.needle.lengths or config.recall.lengths
        haystack = read_haystack(validation, tokenizer) if hides else np.zeros(0, dtype=np.int64)
        baseline = baseline_loss(open_tokens(tokens.path, "train"), windows, tokenizer.vocab_size)
        material = Material(windows, haystack, validation)
        results = [_evaluate(context, checkpoint, material) for checkpoint in checkpoints]
    evaluation = {
        "definitions": DEFINITIONS,
        "tokens": tokens.id,
        "validation": {
            "sequence_length": length,
            "windows": len(windows.windows.inputs),
            "scored_tokens": windows.tokens,
            "scored_bytes": windows.bytes,
        },
        "unigram": baseline.rounded(),
        "needle": {"candidates": config.needle.candidates, **_chance(config.needle.candidates)},
        "checkpoints": results,
    }
    _write(context.output, evaluation, checkpoints)
    return Result(
        counts={"checkpoints": len(results), "scored_tokens": windows.tokens, "scored_bytes": windows.bytes},
        metrics=_metrics(evaluation),
        performance=_performance(checkpoints, windows),
    )


def _checkpoints(context: Context[EvaluateConfig], tokens: Artifact) -> list[Evaluated]:
    artifacts, labels = context.many("checkpoints"), context.config.labels
    check_labels(context.config, len(artifacts))
    found = []
    for number, artifact in enumerate(artifacts):
        check_same_tokenizer(artifact, tokens)
        label = labels[number] if labels else f"{artifact.manifest.stage} {artifact.id[:8]}"
        work = context.work / f"{number:03d}-{artifact.id}"
        work.mkdir(parents=True, exist_ok=True)
        found.append(Evaluated(artifact, label, read_model_config(artifact), work, context.config))
    return found


def _sequence_length(config: EvaluateConfig, checkpoints: Sequence[Evaluated]) -> int:
    """Raise ConfigError if the requested window length exceeds a checkpoint's context."""
    shortest = min(checkpoints, key=lambda checkpoint: checkpoint.config.max_position_embeddings)
    context = shortest.config.max_position_embeddings
    check_window(config.sequence_length, shortest.label, context)
    return config.sequence_length or min(context, LONGEST_DEFAULT)


def _token_bytes(tokenizer: EngineTokenizer) -> Ids:
    """UTF-8 length [V] of every token."""
    return np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)], dtype=np.int64)


def _evaluate(context: Context[EvaluateConfig], checkpoint: Evaluated, material: Material) -> dict[str, Any]:
    config, windows = context.config, material.windows
    with context.progress.task(f"evaluating {checkpoint.label}", total=_tokens(config, windows), unit="tokens") as bar:
        step = _stepper(context, bar)
        loss = checkpoint.remember("loss", lambda: _loss(checkpoint.engine, windows, step))
        needles = checkpoint.remember(
            "needle", lambda: run_needles(checkpoint.engine, material.haystack, config.needle, config.seed, step)
        )
        found = {"validation": loss, "needle": needles}
        if config.recall.lengths:
            found["recall"] = checkpoint.remember(
                "recall", lambda: run_recall(checkpoint.engine, material.haystack, config.recall, config.seed, step)
            )
        if config.positions.length:
            found["positions"] = checkpoint.remember(
                "positions", lambda: run_positions(checkpoint.engine, material.validation, config.positions, step)
            )
        samples = checkpoint.remember("samples", lambda: run_samples(checkpoint.engine, config.samples, config.seed))
    checkpoint.__dict__.pop("engine", None)  # one model in memory at a time
    context.logger.info("%s: loss %.4f, %.4f bits per byte", checkpoint.label, loss["loss"], loss["bits_per_byte"])
    return {**_identity(checkpoint), **found, "samples": samples}


def _tokens(config: EvaluateConfig, windows: Windows) -> int:
    """Tokens that one checkpoint reads, at most."""
    needles = sum(config.needle.lengths) * len(config.needle.depths) * config.needle.trials
    positions = (config.positions.length or 0) * config.positions.documents
    return windows.tokens + needles + sum(config.recall.lengths) * config.recall.trials + positions


def _stepper(context: Context[EvaluateConfig], bar: Bar) -> Callable[[int], None]:
    def step(tokens: int) -> None:
        context.check_stop()
        bar.advance(tokens)

    return step


def _loss(engine: InferenceEngine, windows: Windows, step: Callable[[int], None]) -> dict[str, float]:
    measured = model_loss(engine.model, windows, step)
    return {**measured.loss.rounded(), "ffn_experts": measured.ffn_experts}


def _identity(checkpoint: Evaluated) -> dict[str, Any]:
    accounting = count(checkpoint.config)
    state = read_state(checkpoint.artifact)
    return {
        "label": checkpoint.label,
        "id": checkpoint.artifact.id,
        "stage": checkpoint.artifact.manifest.stage,
        "parameters": accounting.total,
        "activated_parameters": accounting.activated_mean,
        "context": checkpoint.config.max_position_embeddings,
        "training_steps": state.step,
        "training_tokens": state.tokens,
    }


def _chance(candidates: int) -> dict[str, float]:
    return {"chance_top1": round(1 / candidates, 6), "chance_mean_rank": (candidates + 1) / 2}


def _write(output: Path, evaluation: dict[str, Any], checkpoints: Sequence[Evaluated]) -> None:
    lines = []
    for result in evaluation["checkpoints"]:
        samples = result.pop("samples")
        lines += [canonical_json({"label": result["label"], "id": result["id"], **sample}) for sample in samples]
        result["samples"] = len(samples)
    atomic_write(output / "samples.jsonl", b"".join(line + b"\n" for line in lines))
    atomic_write(output / "evaluation.json", pretty_json(evaluation))
    atomic_write(output / "report.md", render_report(evaluation).encode())
    for name, drawing in drawings(evaluation).items():
        atomic_write(output / name, drawing.encode())


def _metrics(evaluation: dict[str, Any]) -> dict[str, Any]:
    checkpoints = [
        {
            "label": result["label"],
            "id": result["id"],
            "validation_loss": result["validation"]["loss"],
            "bits_per_byte": result["validation"]["bits_per_byte"],
            "perplexity": result["validation"]["perplexity"],
            **({"needle_top1": result["needle"]["top1"]} if result["needle"]["top1"] is not None else {}),
            **({"recalled": result["recall"]["recalled"]} if result.get("recall", {}).get("cells") else {}),
        }
        for result in evaluation["checkpoints"]
    ]
    unigram = evaluation["unigram"]
    return {
        "checkpoints": checkpoints,
        "unigram_loss": unigram["loss"],
        "unigram_bits_per_byte": unigram["bits_per_byte"],
        "needle_chance": evaluation["needle"]["chance_top1"],
    }


def _performance(checkpoints: Sequence[Evaluated], windows: Windows) -> dict[str, Any]:
    """Tokens per second on the validation windows, and seconds per part, for results computed by this process."""
    rows: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        asked = {
            "loss": True,
            "needle": checkpoint.options.needle.lengths,
            "recall": checkpoint.options.recall.lengths,
            "positions": checkpoint.options.positions.length,
            "samples": checkpoint.options.samples.prompts,
        }
        parts = {f"{part}_seconds": round(seconds, 3) for part, seconds in checkpoint.speed.items() if asked[part]}
        if seconds := checkpoint.speed.get("loss", 0.0):
            parts["loss_tokens_per_second"] = round(windows.tokens / seconds, 1)
        if parts:
            rows.append({"label": checkpoint.label, **parts})
    return {"checkpoints": rows} if rows else {}
