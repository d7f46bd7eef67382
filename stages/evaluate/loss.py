"""Validation loss, bits per byte and perplexity of a model on fixed windows, and of a unigram model.

Names: n windows, L tokens per window, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import InputError, LongcatError
from longcat.pipeline.tokens import TokenFile
from longcat.stages.evaluate.config import EvaluateConfig
from longcat.stages.formats.metrics import unigram_loss
from longcat.stages.formats.validation_windows import ValidationWindows, validation_windows
from longcat.stages.formats.windows import IGNORED, Ids

# Rounding hides differences in the last bits, for example between numbers of threads.
DIGITS = 6


@dataclass(frozen=True)
class Windows:
    """Windows shared by all checkpoints, and the byte length of each target [n, L]."""

    windows: ValidationWindows
    target_bytes: Ids

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return self.windows.tokens

    @property
    def bytes(self) -> int:
        """Number of UTF-8 bytes of the scored tokens."""
        return int(self.target_bytes.sum())


@dataclass(frozen=True)
class Loss:
    """Losses of one model on windows; all tokens have equal weight.

    `loss` is the mean negative log-likelihood in nats per scored token, `standard_error` its standard error with
    windows as sampling units, `bits_per_byte` the total in bits divided by the UTF-8 bytes of the scored tokens.
    Special tokens (end of document) are scored and count as zero bytes. `perplexity` is exp(loss).
    """

    loss: float
    standard_error: float
    bits_per_byte: float
    perplexity: float

    def rounded(self) -> dict[str, float]:
        return {name: round(value, DIGITS) for name, value in asdict(self).items()}


def read_windows(tokens: TokenFile, sequence_length: int, config: EvaluateConfig, token_bytes: Ids) -> Windows:
    """Select windows spread evenly over a token file; `token_bytes` [V] is the UTF-8 length of every token.

    Raises:
        InputError: the file holds fewer than two tokens, or ids that the tokenizer does not have.
    """
    found = validation_windows(
        tokens,
        sequence_length,
        config.windows,
        document_mask=config.document_mask,
        across_documents=config.loss_across_documents,
    )
    targets = found.targets
    if not found.tokens:
        raise InputError("fewer than two validation tokens", where=str(tokens.prefix), hint="pack more documents")
    largest = int(max(found.inputs.max(), targets.max()))
    if largest >= len(token_bytes):
        raise InputError(
            f"token id {largest}, but the tokenizer has {len(token_bytes)} tokens",
            where=str(tokens.prefix),
            hint="pack the documents with the tokenizer of the checkpoints",
        )
    scored = targets != IGNORED
    windows = Windows(found, np.where(scored, token_bytes[np.where(scored, targets, 0)], 0))
    if not windows.bytes:
        raise InputError("the validation tokens contain no text", where=str(tokens.prefix))
    return windows


@dataclass(frozen=True)
class ModelLoss:
    """Loss of a model, and mean number of FFN experts per token and layer (without zero-computation experts)."""

    loss: Loss
    ffn_experts: float


@torch.inference_mode()
def model_loss(model: LongcatFlash, windows: Windows, on_window: Callable[[int], None]) -> ModelLoss:
    """Measure a model window by window, so that results do not depend on batching.

    `on_window` is called with the number of tokens of every finished window.

    Raises:
        LongcatError: the loss is not finite.
    """
    device = next(model.parameters()).device
    number = len(windows.windows.inputs)
    sums, counts = np.zeros(number), np.zeros(number, dtype=np.int64)
    ffn_slots, slots = 0, 0
    for row in range(number):
        window = windows.windows.rows(row, row + 1)
        # Padding comes last and is not attended to by scored tokens; cutting it also keeps it from being routed.
        length = window.filled
        x_BT, y_BT = (torch.from_numpy(ids[:, :length]).to(device) for ids in (window.inputs, window.targets))
        bounds = window.cu_seqlens(length)
        loss_sum, counted, output = model.loss(x_BT, y_BT, None if bounds is None else torch.from_numpy(bounds))
        sums[row], counts[row] = loss_sum.item(), int(counted)
        ffn_slots += int(output.expert_counts_LE[:, : model.config.n_routed_experts].sum())
        slots += length * model.config.num_layers
        on_window(window.tokens)
    if not np.isfinite(sums).all():
        raise LongcatError("the loss is not finite", hint="the checkpoint is damaged or its training has diverged")
    return ModelLoss(_summarise(sums, counts, windows.bytes), round(ffn_slots / slots, DIGITS))


def _summarise(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], bytes_: int) -> Loss:
    total, tokens, n = math.fsum(sums), int(counts.sum()), len(sums)
    loss = total / tokens
    spread = math.fsum((sums - loss * counts) ** 2)
    # Ratio estimator: windows may differ in length.
    error = math.sqrt(spread * n / (n - 1)) / tokens if n > 1 else 0.0
    return Loss(loss, error, bits_per_byte(total, bytes_), math.exp(loss))


def bits_per_byte(nats: float, bytes_: int) -> float:
    """Bits per byte of a sum of nats."""
    return nats / math.log(2) / bytes_


def baseline_loss(train: TokenFile, windows: Windows, vocab_size: int) -> Loss:
    """Losses of a unigram model of the training tokens (add-one smoothing)."""
    loss = unigram_loss(train, windows.windows.targets, vocab_size)
    return Loss(loss, 0.0, bits_per_byte(loss * windows.tokens, windows.bytes), math.exp(loss))
