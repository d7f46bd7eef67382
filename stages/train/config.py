"""Configuration of a training run. `TrainingOptions` is shared by every stage that trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import ADDED, RUNTIME, StageConfig
from longcat.pipeline.errors import ConfigError
from longcat.stages.device import Device, Dtype, resolve_device, resolve_dtype
from longcat.stages.formats.training_state import Packing
from longcat.stages.train.launch.config import LaunchOptions
from longcat.stages.train.optim.kinds import ADAM, HiddenUpdate, KindsOptions
from longcat.stages.train.parallel.config import ParallelOptions
from longcat.stages.train.sparse_balance.config import SparseBalanceOptions
from longcat.stages.train.stability.config import BalanceLossOptions, StabilityOptions
from longcat.stages.train.watch.config import WatchOptions


class ScheduleOptions(StageConfig):
    """Learning rate as a function of the step; see `stages.train.optim.schedule`."""

    kind: Literal["wsd", "cosine", "constant"] = Field(
        default="wsd", description="shape after warm-up: wsd (constant, then linear decay), cosine, constant"
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="steps of linear warm-up; null: 5 % of the schedule, at most 2000"
    )
    decay_fraction: float = Field(default=0.2, ge=0, le=1, description="wsd: fraction of the schedule spent decaying")
    minimum_ratio: float = Field(default=0.1, ge=0, le=1, description="final learning rate relative to the peak")
    total_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps of the whole schedule, over all runs that continue it; null: until the end of this run",
    )
    on_join: Literal["continue", "rewarm", "restart"] | None = Field(
        default=None,
        description="with an input checkpoint: continue its schedule (refused if the learning rate would jump), rewarm "
        "to a schedule of this run from the checkpoint's last learning rate, or restart from 0; null: continue if "
        "total_steps is set, else rewarm",
    )


class WeightRescalingOptions(StageConfig):
    """Rescaling of attention weights (WISCA); see `stages.train.optim.weight_rescaling`."""

    every: int = Field(default=0, ge=0, description="steps between rescalings, counted from initialisation; 0: none")
    at_start: bool = Field(default=False, description="whether the initial values of a new model are rescaled")
    pairs: Literal["both", "qk", "vo"] = Field(
        default="both", description="what is rescaled: queries against keys (qk), values against the output (vo)"
    )
    groups: Literal["tensor", "head"] = Field(
        default="tensor", description="one factor for a tensor or for each head; rotary parts always have one"
    )
    moments: Literal["rescale", "keep"] = Field(
        default="rescale", description="optimizer moments: rescaled like the gradients of their weights, or kept"
    )

    @property
    def enabled(self) -> bool:
        """Whether anything is ever rescaled."""
        return self.every > 0 or self.at_start

    @model_validator(mode="after")
    def _has_a_time(self) -> Self:
        if not self.enabled and self != self.model_construct():
            raise ValueError("options are given, but nothing is rescaled; set every or at_start, or remove them")
        return self


class MuonOptions(StageConfig):
    """Muon, for hidden matrices; see `stages.train.optim.muon`."""

    momentum: float = Field(default=0.95, ge=0, lt=1, description="decay of the average of the gradients")
    nesterov: bool = Field(
        default=True, description="orthogonalise the average as it would be after the same gradient again"
    )
    steps: int = Field(default=5, ge=1, le=20, description="Newton-Schulz steps per update")
    scale: Literal["rms", "spectral"] = Field(
        default="rms",
        description="size of an update relative to the learning rate. rms: 0.2 per element, as AdamW's, so that its "
        "learning rate and weight decay carry over; spectral: a spectral norm of sqrt(rows / columns), at least 1",
    )
    per_head: bool = Field(
        default=False, description="orthogonalise the projections from latents to heads head by head"
    )
    dtype: Dtype = Field(
        default="auto",
        description="dtype of the products of the Newton-Schulz steps; auto: that of the run's matrix products",
    )


class OptimizerOptions(StageConfig):
    """AdamW, or Muon with AdamW for what is not a hidden matrix."""

    kind: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="adamw, or muon for hidden matrices and adamw for embeddings, output projection, routers and norms",
    )
    muon: MuonOptions = MuonOptions()
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="decay of the second moment")
    eps: float = Field(
        default=1e-16,
        gt=0,
        description="added to the root of the second moment (report: 1e-16)",
    )
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled weight decay, only for matrices")
    cautious_decay: bool = Field(
        default=False, description="decay only the weights that the update makes smaller (Chen et al. 2025)"
    )
    gradient_clip: float = Field(default=1.0, gt=0, description="maximum global gradient norm")
    average_decay: float | None = Field(
        default=None, ge=0, lt=1, description="keep an exponential moving average of the weights with this decay"
    )
    weight_rescaling: WeightRescalingOptions = WeightRescalingOptions()
    state: Literal["continue", "reset"] = Field(
        default="continue", description="with an input checkpoint: keep its optimizer moments, or reset them"
    )

    @model_validator(mode="after")
    def _names_its_options(self) -> Self:
        if self.kind != "muon" and self.muon != MuonOptions():
            raise ValueError("muon: options are given, but kind is adamw; set kind: muon, or remove them")
        return self

    @property
    def hidden_update(self) -> HiddenUpdate:
        """How hidden matrices are updated."""
        return self.muon.scale if self.kind == "muon" else ADAM

    def check_width(self, scale: float) -> None:
        """Raise ConfigError if there is no rule for a model `scale` times as wide as its proxy."""
        if self.muon.per_head and scale != 1:
            raise ConfigError(
                "optimizer.muon.per_head = true: heads have the same number of rows at every width, and there is no "
                f"rule for their learning rate in a model {scale:g} times as wide as its proxy",
                hint="set optimizer.muon.per_head: false, or train without the proxy",
            )


class ObjectiveOptions(StageConfig):
    """Terms of the loss besides next-token prediction."""

    document_mask: bool = Field(
        default=True, description="a token attends only to its own document, not to earlier ones in the sequence"
    )
    loss_across_documents: bool = Field(
        default=True,
        description="the first token of a document is a target, predicted from the end of the one before",
    )
    hidden_z_loss: float = Field(
        default=1e-7,
        ge=0,
        description="weight of the z-loss on the hidden states before the final norm (report: 1e-7); 0: none",
    )
    mtp_weight: float = Field(
        default=0.3, ge=0, description="weight of multi-token prediction, for models with its layer"
    )
    mtp_start_step: int = Field(
        default=0, ge=0, description="step since initialisation from which multi-token prediction is trained"
    )


class BalanceOptions(StageConfig):
    """Controller of the router biases; see `stages.train.load_balance.controller`."""

    target_active_experts: float | None = Field(
        default=None, gt=0, description="target of FFN experts per token on average (K_e); null: K*N/(N+Z)"
    )
    mu: float | None = Field(
        default=None, ge=0, description="gain of the controller; null: K/(N+Z); 0 freezes the biases"
    )
    final_mu_ratio: float = Field(
        default=0.5, ge=0, le=1, description="mu at the end of the schedule relative to its start, with linear decay"
    )


class EvaluationOptions(StageConfig):
    """Validation loss during and after training."""

    every: int = Field(default=0, ge=0, description="steps between evaluations; 0: only at the end")
    windows: int = Field(default=16, ge=1, description="validation windows, spread evenly over the validation tokens")


class TrainingOptions(LaunchOptions, ABC):
    """Options independent of sequence length and run length."""

    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate")
    schedule: ScheduleOptions = ScheduleOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    kinds: KindsOptions = KindsOptions()
    objective: ObjectiveOptions = ObjectiveOptions()
    balance: BalanceOptions = BalanceOptions()
    evaluation: EvaluationOptions = Field(default=EvaluationOptions(), json_schema_extra=RUNTIME)
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of initial weights and data order")
    device: Device = Field(default="auto", description="auto: cuda if available")
    dtype: Dtype = Field(
        default="auto", description="dtype of matrix products; weights and moments are float32; auto: bfloat16 on cuda"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads; null: all cores; affects the last bits of results"
    )
    packing: Packing = Field(
        default="joined",
        description="joined: sequences are cut from the joined documents, without padding. best_fit: no document that "
        "fits into a sequence is cut; what stays empty is padded",
    )
    ngram_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="largest share of n-gram embeddings in the parameters; a model with a larger one is refused",
        json_schema_extra=RUNTIME,
    )
    balance_loss: BalanceLossOptions = BalanceLossOptions()
    sparse_balance: SparseBalanceOptions = Field(default=SparseBalanceOptions(), json_schema_extra=ADDED)
    stability: StabilityOptions = StabilityOptions()
    parallel: ParallelOptions = Field(default=ParallelOptions(), json_schema_extra=RUNTIME)
    watch: WatchOptions = Field(default=WatchOptions(), json_schema_extra=RUNTIME)
    activation_checkpointing: Literal["none", "selective", "block"] = Field(
        default="none",
        description="what is recomputed in backward to save memory: nothing, the feed-forward networks, all layers",
        json_schema_extra=RUNTIME,
    )
    compile: bool = Field(
        default=False, description="torch.compile attention and dense networks; slower start, faster steps"
    )
    loader_workers: int = Field(
        default=1,
        ge=0,
        description="threads that prefetch batches; 0: none; does not affect results",
        json_schema_extra=RUNTIME,
    )
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        description="steps between checkpoints for resuming",
        json_schema_extra=RUNTIME,
    )
    keep_last: int = Field(default=2, ge=1, description="number of checkpoints to keep", json_schema_extra=RUNTIME)
    keep_every: int = Field(
        default=0,
        ge=0,
        description="steps between checkpoints that are kept for good, also in the finished artifact, to go on from; "
        "0: none",
        json_schema_extra=RUNTIME,
    )

    @property
    @abstractmethod
    def all_steps(self) -> int:
        """Optimizer steps of the run over all phases."""

    @property
    def last_step(self) -> int:
        """Steps at the end, counted from the start of the run."""
        return self.all_steps

    @abstractmethod
    def first_steps(self, steps: int) -> dict[str, Any]:
        """Values that end the run after at most this many steps."""

    def resolved(self) -> Self:
        """Resolve device and dtype on this machine, since they affect the bits."""
        device = resolve_device(self.device)
        return self.model_copy(update={"device": device, "dtype": resolve_dtype(self.dtype, device)})


class RunSoFar(StageConfig):
    """The part of a run that was done before the save it goes on from; set by `--resume-from`."""

    steps: int = Field(default=0, ge=0, description="steps before this save; `steps` counts them too")
    tokens: int = Field(default=0, ge=0, description="tokens before this save; `token_budget` counts them too")


class TrainConfig(TrainingOptions):
    """Configuration of `train`."""

    preset: str | None = Field(default=None, description="preset of a new model; none if a checkpoint is continued")
    model: dict[str, Any] = Field(default={}, description="overrides of the preset, e.g. num_layers: 4")
    steps: int | None = Field(default=None, ge=1, description="optimizer steps")
    token_budget: int | None = Field(
        default=None, ge=1, description="training tokens, instead of steps; rounded up to whole steps"
    )
    sequence_length: int = Field(default=256, ge=1, description="tokens per sequence")
    batch_size: int = Field(default=8, ge=1, description="sequences per optimizer step")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="sequences per forward pass; fewer need less memory; null: all of a process",
        json_schema_extra=RUNTIME,
    )
    min_document_tokens: int = Field(default=0, ge=0, description="use only documents of at least this many tokens")
    keep_own: tuple[str, ...] = Field(
        default=(), description="with a proxy: keys that keep their default value instead of the proxy's"
    )
    resumed: RunSoFar = RunSoFar()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        check_one_length(self.steps, self.token_budget)
        for key, length, done in (
            ("steps", self.steps, self.resumed.steps),
            ("token_budget", self.token_budget, self.resumed.tokens),
        ):
            if length is not None and length <= done:
                raise ValueError(
                    f"{key} = {length} counts from the start of the run, which has done {done}; give a larger number"
                )
        return self

    @property
    def all_steps(self) -> int:
        if self.steps is not None:
            return self.steps - self.resumed.steps
        tokens = (self.token_budget or 0) - self.resumed.tokens
        return step_count(None, tokens, self.batch_size * self.sequence_length)

    @property
    def last_step(self) -> int:
        return self.resumed.steps + self.all_steps

    def first_steps(self, steps: int) -> dict[str, Any]:
        return {"steps": self.resumed.steps + min(steps, self.all_steps), "token_budget": None}


def check_one_length(steps: int | None, token_budget: int | None) -> None:
    """Raise ValueError unless exactly one of the two is given."""
    if (steps is None) == (token_budget is None):
        raise ValueError("set either steps or token_budget")


def step_count(steps: int | None, token_budget: int | None, tokens_per_step: int) -> int:
    """Optimizer steps of a run with its length in steps or tokens."""
    if steps is not None:
        return steps
    return -(-(token_budget or 0) // tokens_per_step)
