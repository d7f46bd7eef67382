"""Stage `quantize`: a checkpoint with weights of fewer bits, and its perplexity before and after.

Names: n windows, L tokens of a window, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import InputError, LongcatError
from longcat.pipeline.stage import Context, Result, stage

if TYPE_CHECKING:
    from pathlib import Path

    from longcat.model.transformer import LongcatFlash
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.plans import PlannedInput

# Rounding hides differences in the last bits.
DIGITS = 6


class QuantizeConfig(StageConfig):
    """Configuration of `quantize`."""

    weights: Literal["int8", "fp16", "bf16", "int4", "fp8"] = Field(
        default="int8",
        description="int8, int4 (experts and output projection; int8 for the rest): for CPUs. fp8: in blocks of 128 x "
        "128, for GPUs. fp16, bf16: plain weights that every tool reads",
    )
    windows: int = Field(default=32, ge=1, description="validation windows for the perplexity, spread evenly")
    sequence_length: int = Field(default=512, ge=2, description="tokens of a window, at most the context of the model")


def _check(config: QuantizeConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.stages.formats.architecture import architecture_of

    model = architecture_of(inputs["checkpoint"][0])
    return {} if model is None else {"model": model}


@stage(
    "quantize",
    revision=2,
    inputs={"checkpoint": "checkpoint", "tokens": "tokens?"},
    output="checkpoint",
    resumes=False,
    check=_check,
)
def quantize(context: Context[QuantizeConfig]) -> Result:
    """Write a checkpoint whose weights have fewer bits, and measure what that does to its perplexity.

    The perplexity is measured on the validation part of `tokens`, before, and after with the products of the new form;
    the command takes the tokens that the checkpoint was trained on unless others are given. int8, int4 and fp8
    checkpoints are for inference (`longcat generate`, `chat`, `serve`): training refuses them, and export refuses int8
    and int4.

    Raises:
        InputError: the tokens have another tokenizer, or none of them are for validation.
        LongcatError: a weight is not finite.
    """
    from longcat.stages.formats.checkpoint import check_same_tokenizer, parameter_count, read_model

    config, source, tokens = context.config, context.input("checkpoint"), context.optional("tokens")
    if tokens is None:
        context.logger.warning("no tokens were given, so the perplexity is not measured; add --tokens REF")
    else:
        check_same_tokenizer(source, tokens)
    model = read_model(source).eval().requires_grad_(False)
    before = None if tokens is None else _perplexity(context, model, tokens, "before")
    quantized = _write(config, model, source, context.output)
    parameters, form = parameter_count(model.config), config.weights
    del model
    after = None if tokens is None else _perplexity(context, _rounded(context.output, form), tokens, "after")
    return Result(
        counts={"parameters": parameters, "quantized_matrices": quantized},
        metrics={
            "weight_bytes_before": _weight_bytes(source.path),
            "weight_bytes": _weight_bytes(context.output),
            **_change(before, after),
        },
    )


def _write(config: QuantizeConfig, model: LongcatFlash, source: Artifact, output: Path) -> int:
    """Write weights, tokenizer and training history; returns the number of quantised matrices."""
    from longcat.model.checkpoint import Conversion, save_quantized
    from longcat.model.errors import CheckpointError
    from longcat.pipeline.files import atomic_write, pretty_json
    from longcat.stages.formats.checkpoint import clear, copy_tokenizer
    from longcat.stages.formats.training_state import STATE_FILE, read_state

    clear(output)
    quantized = 0
    try:
        if config.weights in ("fp16", "bf16"):
            Conversion(source.path, dtype=_dtype(config.weights)).write(output)
        else:
            quantized = save_quantized(model, output, config.weights)  # type: ignore[arg-type]
    except CheckpointError as error:
        raise LongcatError(str(error)) from None
    copy_tokenizer(source, output)
    atomic_write(output / STATE_FILE, pretty_json(read_state(source).model_dump(mode="json")))
    return quantized


def _dtype(weights: str) -> Any:
    import torch

    return torch.float16 if weights == "fp16" else torch.bfloat16


def _rounded(folder: Path, weights: str) -> LongcatFlash:
    """The written model, with the products that a CPU makes of its weights where torch has them."""
    from longcat.kernels.packed_linear import missing
    from longcat.model.checkpoint import load_pretrained
    from longcat.model.packed.choice import AsAsked
    from longcat.model.packed.prepare import prepare

    model = load_pretrained(folder, quantized="read").eval().requires_grad_(False)
    # Not chosen by a measurement: metrics must not depend on the clock.
    if weights != "fp8" and missing(weights) is None:
        prepare(model, weights, chooser=AsAsked())  # type: ignore[arg-type]
    return model


def _perplexity(context: Context[QuantizeConfig], model: LongcatFlash, tokens: Artifact, when: str) -> float:
    """exp of the mean negative log-likelihood of the validation tokens, window by window.

    Raises:
        InputError: there are no validation tokens.
        LongcatError: it is not finite.
    """
    import torch
    import torch.nn.functional as F

    from longcat.stages.formats.validation_windows import validation_windows
    from longcat.stages.formats.windows import open_tokens

    length = min(context.config.sequence_length, model.config.max_position_embeddings)
    windows = validation_windows(open_tokens(tokens.path, "validation"), length, context.config.windows)
    count = len(windows.inputs)
    if not count:
        raise InputError("fewer than two validation tokens", where=str(tokens.path), hint="pack more documents")
    sums = []
    with torch.inference_mode(), context.progress.task(f"perplexity {when}", total=count, unit="windows") as bar:
        for row in range(count):
            window = windows.rows(row, row + 1)
            scored = window.tokens
            bounds = torch.from_numpy(window.cu_seqlens(scored))
            logits_TV = model(torch.from_numpy(window.inputs[:, :scored]), bounds).logits[0]
            targets_T = torch.from_numpy(window.targets[0, :scored])
            sums.append(F.cross_entropy(logits_TV, targets_T, reduction="sum").item())
            bar.advance(1)
    loss = math.fsum(sums) / windows.tokens
    if not math.isfinite(loss):
        raise LongcatError("the loss is not finite", hint="the checkpoint is damaged or its training has diverged")
    return math.exp(loss)


def _change(before: float | None, after: float | None) -> dict[str, float | None]:
    change = None if before is None or after is None else round(after / before - 1, DIGITS)
    rounded = {name: None if x is None else round(x, DIGITS) for name, x in (("before", before), ("after", after))}
    return {f"perplexity_{name}": value for name, value in rounded.items()} | {"perplexity_change": change}


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
