"""Profile of the attention kinds of a model on this machine, from which the latency model is fitted.

The two attention modules of every different layer run forward and backward, alone, on windows of equally long
documents, at several lengths and budgets. It takes seconds, is written to `latency.json` in the folder of the run, and
is read from there from then on: a resumed run predicts, and therefore computes, the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longcat.kernels.mla_attention import document_bounds
from longcat.model.attention.base import SequenceContext, SequenceMixer, rotary_widths
from longcat.model.attention.build import build_attention
from longcat.model.config import ModelConfig
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import atomic_write, pretty_json, read_json
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.control import control
from longcat.stages.train.sparse_balance.check import different_layers
from longcat.stages.train.sparse_balance.config import SparseBalanceOptions
from longcat.stages.train.sparse_balance.latency import (
    TERMS,
    Floats,
    LatencyModel,
    budgets_of,
    fit,
    layer_terms,
    relative_error,
)

LATENCY_FILE = "latency.json"
# Lengths are SHORTEST of the sequence length and, in steps of FACTOR, more; several documents make LEAST_TOKENS.
SHORTEST, FACTOR, LEAST_TOKENS = 1 / 64, 4, 256
REPEATS = 5
SECONDS = 8.0  # per layer, after `LENGTHS` lengths; longer documents than are reached are extrapolated
LENGTHS = 3
RATIOS = (0.25, 0.5, 1.0, 2.0)  # of budgets, relative to that of the kind


def latency_model(
    options: SparseBalanceOptions, held: Distributed, sequence_length: int, work: Path, logger: logging.Logger
) -> LatencyModel:
    """The latency model of a run: given by its options, saved in `work`, or measured now and saved there; collective.

    Raises:
        IntegrityError: the file is damaged, or missing in a run that has saves.
    """
    coefficients = options.latency
    if coefficients is None:
        found = _read_or_measure(held, sequence_length, work, logger) if control().leads else None
        coefficients = control().broadcast(found)
    return LatencyModel.of(held.config, coefficients)


def _read_or_measure(held: Distributed, sequence_length: int, work: Path, logger: logging.Logger) -> list[list[float]]:
    path = work / LATENCY_FILE
    if path.exists():
        return _read(path, different_layers(held.config))
    if any((work / "checkpoints").glob("step-*")):
        raise IntegrityError(
            "the latency model of this run is missing, and another one would change its results",
            where=str(path),
            hint="restore the file, or start a new run",
        )
    layers = []
    for layer in range(different_layers(held.config)):
        points = list(measure(held.config, layer, sequence_length, held.parallel.device, held.dtype))
        measured = [(row, point["seconds"]) for row, point in points]
        coefficients = fit(measured)
        error = relative_error(measured, coefficients)
        kinds = [held.config.mixer(slot).kind for slot in (2 * layer, 2 * layer + 1)]
        logger.info(
            "latency of attention %s and %s measured at %d points, fitted to %.0f %%", *kinds, len(points), 100 * error
        )
        row = {"attention": kinds, "coefficients": coefficients.tolist(), "relative_error": error}
        layers.append(row | {"points": [point for _, point in points]})
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, pretty_json({"layers": layers}))
    return [row["coefficients"] for row in layers]


def _read(path: Path, layers: int) -> list[list[float]]:
    try:
        found = [[float(value) for value in row["coefficients"]] for row in read_json(path)["layers"]]
        if len(found) != layers or any(len(row) != TERMS or min(row) < 0 for row in found):
            raise ValueError(f"expected {layers} rows of {TERMS} coefficients of zero or more")
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            f"cannot be read as a latency model: {error}", where=str(path), hint="restore the file, or start a new run"
        ) from None
    return found


def measure(
    config: ModelConfig, layer: int, sequence_length: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[Floats, dict[str, Any]]]:
    """(terms of the window, documents and their length, budget, seconds) of every point of one layer."""
    mixers = [_mixer(config, slot, device, dtype) for slot in (2 * layer, 2 * layer + 1)]
    own = budgets_of(config, layer)
    known = next((budget for budget in own if budget is not None), None)
    length, lengths, spent = max(1, round(SHORTEST * sequence_length)), 0, 0.0
    while lengths < LENGTHS or spent < SECONDS:
        lengths += 1
        budgets = [None] if known is None else sorted({min(length, max(1, round(known * ratio))) for ratio in RATIOS})
        documents = max(1, min(LEAST_TOKENS, sequence_length) // length)
        for budget in budgets:
            times = list(_times(mixers, config, documents, length, budget))
            seconds = min(times)  # what else the machine does only adds to the time
            spent += sum(times)
            point = {"documents": documents, "length": length, "budget": budget, "seconds": seconds}
            yield layer_terms(np.full(documents, length, dtype=np.int64), own, budget), point
        if length == sequence_length:
            return
        length = min(length * FACTOR, sequence_length)


def _mixer(config: ModelConfig, slot: int, device: torch.device, dtype: torch.dtype) -> SequenceMixer:
    """A module with arbitrary weights: its speed does not depend on them."""
    mixer = build_attention(config, slot)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in mixer.parameters():
            value = torch.ones(parameter.shape)
            if parameter.ndim > 1:
                value = torch.randn(parameter.shape, generator=generator) * config.initializer_range
            parameter.copy_(value)
    return mixer.to(device=device, dtype=dtype)


def _times(
    mixers: Sequence[SequenceMixer], config: ModelConfig, documents: int, length: int, budget: int | None
) -> Iterator[float]:
    """Seconds of some passes over a window, after one that is not counted.

    On one CPU thread they are those of the processor, which other programs do not change much.
    """
    device, dtype = next((parameter.device, parameter.dtype) for parameter in mixers[0].parameters())
    tokens = documents * length
    cu_seqlens = torch.arange(0, tokens + 1, length, dtype=torch.int32)
    where = SequenceContext.at(
        torch.arange(tokens, device=device),
        rotary_widths(mixers),
        config.rope_theta,
        config.rope_scaling,
        cu_seqlens=cu_seqlens,
        documents=document_bounds(cu_seqlens, 1, tokens, device),
        budgets_B=None if budget is None else torch.tensor([budget], device=device),
    )
    x_BTD = torch.randn(1, tokens, config.hidden_size, generator=torch.Generator().manual_seed(1))
    x_BTD = x_BTD.to(device=device, dtype=dtype).requires_grad_()
    first, second = mixers
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    now = time.thread_time if alone else time.perf_counter
    for number in range(REPEATS + 1):
        began = now()
        output = first(x_BTD, where)
        (output.y_BTD + second(x_BTD, where.after(output)).y_BTD).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            yield now() - began
