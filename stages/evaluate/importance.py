"""Which attention modules need to see all positions: the loss of a model in which one of them streams.

ZigZag (LongCat-Flash-Thinking-2601, section 6) makes about half of the attention modules streaming, those that matter
least by a calibrated score. Here the score is the change of the loss on given tokens if one module sees only sinks and
local blocks and all others are as they were; the weights are the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.window import WindowOptions
from longcat.model.mixers import MixerSpec, shortest_pattern
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.stages.evaluate.check import check_window
from longcat.stages.formats.checkpoint import check_same_tokenizer, read_model
from longcat.stages.formats.validation_windows import ValidationWindows, validation_windows
from longcat.stages.formats.windows import open_tokens
from longcat.stages.train.determinism import reproducible

DIGITS = 6


@dataclass(frozen=True)
class SlotImportance:
    """Change of the mean loss in nats per token if attention `slot` streams, and its standard error over windows."""

    slot: int
    change: float
    standard_error: float


@dataclass(frozen=True)
class Importance:
    """Loss of the model as it is, the changes by slot, and `attention` of a model whose least important half streams.

    `attention` is None if the pattern would be longer than a configuration may have.
    """

    loss: float
    tokens: int
    slots: tuple[SlotImportance, ...]
    streaming: tuple[int, ...]
    attention: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def importance_of_checkpoint(
    checkpoint: Artifact,
    tokens: Artifact,
    options: WindowOptions,
    sequence_length: int | None,
    windows: int,
    threads: int | None,
) -> Importance:
    """`attention_importance` on windows of the validation tokens, by default of the length of the model's context.

    Raises:
        ConfigError: as `attention_importance`, or the windows exceed the model's context.
        InputError: the tokens are of another tokenizer.
    """
    check_same_tokenizer(checkpoint, tokens)
    with reproducible(threads):
        model = read_model(checkpoint)
        context = model.config.max_position_embeddings
        check_window(sequence_length, checkpoint.id[:8], context)
        found = validation_windows(open_tokens(tokens.path, "validation"), sequence_length or context, windows)
        return attention_importance(model, found, options)


def attention_importance(model: LongcatFlash, windows: ValidationWindows, options: WindowOptions) -> Importance:
    """Measure every attention module of kind `mla`.

    Raises:
        ConfigError: the windows are too short for streaming attention to hide anything, or no module is of this kind.
    """
    if windows.filled <= options.size + options.sinks:
        raise ConfigError(
            f"windows of {windows.filled} tokens show streaming attention of {options.size + options.sinks} positions "
            "all of them",
            hint="use a longer --sequence-length, or a smaller --size",
        )
    candidates = sorted(
        (mixer for mixer in model.model.layers.modules() if type(mixer) is MultiHeadLatentAttention),
        key=lambda mixer: mixer.slot,
    )
    if not candidates:
        raise ConfigError("no attention module of the model is of kind mla", hint="measure the model before conversion")
    before, counts = _losses(model, windows)
    found = []
    for mixer in candidates:
        mixer.window = options.window
        try:
            found.append(_slot(mixer.slot, _losses(model, windows)[0] - before, counts))
        finally:
            mixer.window = None
    ranked = sorted(found, key=lambda slot: (slot.change, slot.slot))
    streaming = tuple(sorted(slot.slot for slot in ranked[: len(ranked) // 2]))
    loss = round(float(before.sum() / counts.sum()), DIGITS)
    return Importance(loss, int(counts.sum()), tuple(found), streaming, _pattern(model, streaming, options))


def _slot(slot: int, changes: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> SlotImportance:
    tokens, windows = int(counts.sum()), len(counts)
    change = changes.sum() / tokens
    spread = float(((changes - change * counts) ** 2).sum())
    error = (spread * windows / (windows - 1)) ** 0.5 / tokens if windows > 1 else 0.0
    return SlotImportance(slot, round(float(change), DIGITS), round(error, DIGITS))


@torch.inference_mode()
def _losses(model: LongcatFlash, windows: ValidationWindows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Sum of the loss, and number of targets, of every window."""
    device, losses = next(model.parameters()).device, []
    for row in range(len(windows.inputs)):
        window = windows.rows(row, row + 1)
        x_BT, y_BT = (torch.from_numpy(ids[:, : window.filled]).to(device) for ids in (window.inputs, window.targets))
        bounds = window.cu_seqlens(window.filled)
        loss, counted, _ = model.loss(x_BT, y_BT, None if bounds is None else torch.from_numpy(bounds))
        losses.append((loss.item(), int(counted)))
    sums, counts = zip(*losses, strict=True)
    return np.array(sums), np.array(counts)


def _pattern(model: LongcatFlash, streaming: tuple[int, ...], options: WindowOptions) -> dict[str, Any] | None:
    window, config = MixerSpec("window", options), model.config
    return shortest_pattern(
        [window if slot in streaming else config.mixer(slot) for slot in range(2 * config.num_layers)]
    )
