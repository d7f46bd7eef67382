"""What a training run can be told. `TrainingOptions` is shared by every stage that trains."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import RUNTIME, StageConfig
from longcat.stages.device import resolve_device, resolve_dtype
from longcat.stages.train.launch_config import LaunchOptions
from longcat.stages.train.parallel.config import ParallelOptions
from longcat.stages.train.stability.config import BalanceLossOptions, StabilityOptions
from longcat.stages.train.watch.config import WatchOptions


class ScheduleOptions(StageConfig):
    """The learning rate as a function of the step; see `stages.train.schedule`."""

    kind: Literal["wsd", "cosine", "constant"] = Field(
        default="wsd", description="shape after warm-up: wsd (constant, then a linear fall), cosine, constant"
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="steps of linear warm-up; null: 5 % of the schedule, at most 2000"
    )
    decay_fraction: float = Field(default=0.2, ge=0, le=1, description="wsd: share of the schedule spent falling")
    minimum_ratio: float = Field(default=0.1, ge=0, le=1, description="learning rate at the end, relative to the peak")
    total_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps of the whole schedule, over all runs that continue it; null: to this run's end",
    )
    position: Literal["continue", "restart"] = Field(
        default="continue", description="with an input checkpoint: go on where its schedule stood, or begin at step 0"
    )


class OptimizerOptions(StageConfig):
    """AdamW."""

    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="decay of the second moment")
    eps: float = Field(default=1e-16, gt=0, description="added to the root of the second moment (report: 1e-16)")
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled weight decay, on matrices only")
    gradient_clip: float = Field(default=1.0, gt=0, description="largest global gradient norm")
    average_decay: float | None = Field(
        default=None, ge=0, lt=1, description="keep an exponential moving average of the weights with this decay"
    )
    state: Literal["continue", "reset"] = Field(
        default="continue", description="with an input checkpoint: keep its optimizer moments, or begin with none"
    )


class ObjectiveOptions(StageConfig):
    """The terms of the loss beside the next token's."""

    document_mask: bool = Field(
        default=True, description="a token sees its own document only, not the ones before it in the sequence"
    )
    hidden_z_loss: float = Field(
        default=1e-7,
        ge=0,
        description="weight of the z-loss on the hidden states before the final norm (report: 1e-7); 0: none",
    )
    mtp_weight: float = Field(
        default=0.3, ge=0, description="weight of multi-token prediction, for models that have its layer"
    )
    mtp_start_step: int = Field(
        default=0, ge=0, description="step, counted from initialisation, from which multi-token prediction is trained"
    )


class BalanceOptions(StageConfig):
    """The controller of the router biases; see `stages.train.balance`."""

    target_active_experts: float | None = Field(
        default=None, gt=0, description="FFN experts a token should use on average (K_e); null: K*N/(N+Z)"
    )
    mu: float | None = Field(
        default=None, ge=0, description="gain of the controller; null: K/(N+Z); 0 freezes the biases"
    )
    final_mu_ratio: float = Field(
        default=0.5, ge=0, le=1, description="mu at the end of the schedule relative to its start, falling linearly"
    )


class EvaluationOptions(StageConfig):
    """The validation loss taken during and after training."""

    every: int = Field(default=0, ge=0, description="steps between evaluations; 0: at the end only")
    windows: int = Field(default=16, ge=1, description="validation windows, spread evenly over the validation tokens")


class TrainingOptions(LaunchOptions):
    """What is the same whatever the length of the sequences and of the run."""

    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate")
    schedule: ScheduleOptions = ScheduleOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    objective: ObjectiveOptions = ObjectiveOptions()
    balance: BalanceOptions = BalanceOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the initial weights and of the order of the data")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the matrix products; weights and moments are float32; auto: bfloat16 on cuda"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads; null: all cores; the last bits depend on it"
    )
    balance_loss: BalanceLossOptions = BalanceLossOptions()
    stability: StabilityOptions = StabilityOptions()
    parallel: ParallelOptions = Field(default=ParallelOptions(), json_schema_extra=RUNTIME)
    watch: WatchOptions = Field(default=WatchOptions(), json_schema_extra=RUNTIME)
    activation_checkpointing: Literal["none", "selective", "block"] = Field(
        default="none",
        description="what backward computes again to save memory: nothing, the feed-forward networks, all layers",
    )
    compile: bool = Field(
        default=False, description="torch.compile attention and dense networks; pays on long runs, costs at the start"
    )
    loader_workers: int = Field(
        default=1,
        ge=0,
        description="threads that make the next batches ready; 0: none; changes nothing else",
        json_schema_extra=RUNTIME,
    )
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        description="steps between the checkpoints a restart goes on from",
        json_schema_extra=RUNTIME,
    )
    keep_last: int = Field(default=2, ge=1, description="how many of those are kept", json_schema_extra=RUNTIME)

    def resolved(self) -> Self:
        """Device and dtype as they are on this machine: they change the bits."""
        device = resolve_device(self.device)
        return self.model_copy(update={"device": device, "dtype": resolve_dtype(self.dtype, device)})


class TrainConfig(TrainingOptions):
    """Configuration of `train`."""

    preset: str | None = Field(
        default=None, description="model preset of a new model; none when a checkpoint is continued"
    )
    model: dict[str, Any] = Field(default={}, description="values that replace those of the preset, e.g. num_layers: 4")
    steps: int | None = Field(default=None, ge=1, description="optimizer steps")
    token_budget: int | None = Field(
        default=None, ge=1, description="training tokens, in place of steps; rounded up to whole steps"
    )
    sequence_length: int = Field(default=256, ge=1, description="tokens a sequence")
    batch_size: int = Field(default=8, ge=1, description="sequences an optimizer step")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="sequences a forward pass; fewer need less memory; null: all that a process reads",
    )
    min_document_tokens: int = Field(
        default=0, ge=0, description="train only on documents of at least this many tokens"
    )
    keep_own: tuple[str, ...] = Field(
        default=(), description="with a proxy: keys that keep their value here although it is the default"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        check_one_length(self.steps, self.token_budget)
        return self


def check_one_length(steps: int | None, token_budget: int | None) -> None:
    """Raises ValueError unless exactly one of the two is given."""
    if (steps is None) == (token_budget is None):
        raise ValueError("give either steps or token_budget")


def step_count(steps: int | None, token_budget: int | None, tokens_per_step: int) -> int:
    """Optimizer steps of a run whose length is given in steps or in tokens."""
    if steps is not None:
        return steps
    return -(-(token_budget or 0) // tokens_per_step)
