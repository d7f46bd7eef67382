"""What is planned, and the assumptions, all of which can be changed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from longcat.pipeline.config import StageConfig
from longcat.stages.train.parallel.config import Schedule

Checkpointing = Literal["none", "selective", "block"]
UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
MOST_TOKENS, TOKENS_PER_DEVICE = 1 << 26, 1 << 16  # of a step, where batch_tokens is not given


def number_of(value: object) -> object:
    """`20T`, `1.5B` or `300k` as an integer; other values are unchanged.

    Raises:
        ValueError: the text is not a number with one of these units.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMBT]?)", value.strip().replace(",", "").replace("_", ""))
    if not found:
        raise ValueError("expected a number such as 20T, 1.5B, 300M or 4194304")
    return round(float(found[1]) * UNITS[found[2]]) if "." in found[1] else int(found[1]) * UNITS[found[2]]


Tokens = Annotated[int, BeforeValidator(number_of)]


class LayoutOptions(StageConfig):
    """Values that a layout must have; what is null is searched."""

    pipeline: int | None = Field(default=None, ge=1, description="pipeline stages' processes")
    data_replicate: int | None = Field(default=None, ge=1, description="groups that each hold all parameters")
    data_shard: int | None = Field(default=None, ge=1, description="processes that shard the parameters of one group")
    context: int | None = Field(default=None, ge=1, description="processes that share the tokens of a sequence")
    expert: int | None = Field(default=None, ge=1, description="processes that share the experts of a layer")
    pipeline_schedule: Schedule | None = Field(default=None, description="order of micro batches")
    activation_checkpointing: Checkpointing | None = Field(default=None, description="what is computed again")
    micro_batch_size: int | None = Field(default=None, ge=1, description="sequences per forward pass")


class ServingOptions(StageConfig):
    """Serving as in the report's table 7."""

    batch: int = Field(default=96, ge=1, description="sequences that a device decodes at once (table 7: 96)")
    expert_parallel: int = Field(default=128, ge=1, description="devices that share the experts (table 7: 128)")
    context: int = Field(default=5000, ge=1, description="tokens in the cache of a sequence (table 6: 5,000)")
    drafts: int = Field(default=1, ge=0, description="tokens of multi-token prediction that a step verifies")
    acceptance: float = Field(default=0.8, ge=0, le=1, description="share of drafts that is accepted (table 7: 0.8)")
    # FlashMLA's README: up to 660 TFLOP/s of 989 on H800.
    attention_efficiency: float = Field(
        default=0.66, gt=0, le=1, description="share of the bfloat16 peak that attention over the cache reaches"
    )


class PlanOptions(StageConfig):
    """Options of `longcat plan`."""

    device: str = Field(default="h800", description="a device of the table, or cpu: this machine, measured")
    device_values: dict[str, Any] = Field(default={}, description="values that replace those of the device")
    devices: int | None = Field(
        default=None,
        ge=1,
        description="number of devices; null: the power of two on which the training state takes at most a quarter of "
        "their memory",
    )
    tokens: Tokens = Field(default=20 * 10**12, ge=1, description="training tokens (report: 20 T)")
    sequence_length: int | None = Field(
        default=None, ge=1, description="tokens per sequence; null: 8,192 (report), or the model's context if shorter"
    )
    batch_tokens: Tokens | None = Field(
        default=None, ge=1, description="tokens per step; null: 65,536 a device, at most 67,108,864"
    )
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="dtype of matrix products")
    layout: LayoutOptions = LayoutOptions()
    efficiency: float = Field(
        default=0.4,
        gt=0,
        le=1,
        description="share of the peak that computation reaches while nothing waits: the MFU without waiting",
    )
    # The exchange times of table 7 are those of 40 GB/s on links of 50 (`serving.exchange`).
    link_efficiency: float = Field(default=0.8, gt=0, le=1, description="share of its bandwidth that a link reaches")
    # Section 5.3: what is not hidden falls from 25.3 to 8.4 % of the step (`reported.hidden_share`).
    hidden_share: float = Field(
        default=0.73,
        ge=0,
        le=1,
        description="share of the exchange with experts that is hidden while the dense path computes",
    )
    reserve: float = Field(
        default=0.1, ge=0, lt=1, description="share of device memory for libraries, buffers and fragmentation"
    )
    serving: ServingOptions = ServingOptions()
