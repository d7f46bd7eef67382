"""Degrees of parallelism of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig

Schedule = Literal["1f1b", "gpipe", "interleaved"]
INTERLEAVED_STAGES = 2


class ParallelOptions(StageConfig):
    """Degrees of parallelism; pipeline * data_replicate * data_shard * context is the number of processes."""

    data_replicate: int = Field(default=1, ge=1, description="groups of processes that each hold all parameters")
    data_shard: int | None = Field(
        default=None, ge=1, description="processes that shard the parameters of one group; null: all remaining"
    )
    expert: int = Field(
        default=1, ge=1, description="processes that share the experts of a layer, taken from data_shard * context"
    )
    context: int = Field(default=1, ge=1, description="processes that share the tokens of a sequence")
    pipeline: int = Field(default=1, ge=1, description="processes that share the layers, as pipeline stages")
    pipeline_schedule: Schedule = Field(
        default="1f1b",
        description="order of micro batches: 1f1b (least memory), gpipe (all forward, then all backward), interleaved "
        "(two ranges of layers per process, less idle time)",
    )
    overlap: bool = Field(default=True, description="overlap the dispatch to experts with the dense path; same bits")

    @property
    def pipeline_stages(self) -> int:
        """Number of layer ranges that the model is split into."""
        return self.pipeline * (INTERLEAVED_STAGES if self.pipeline_schedule == "interleaved" else 1)


@dataclass(frozen=True)
class Degrees:
    """Resolved sizes of the process grid."""

    pipeline: int = 1
    data_replicate: int = 1
    data_shard: int = 1
    context: int = 1
    expert: int = 1

    @property
    def shard(self) -> int:
        """Processes that shard the parameters other than experts."""
        return self.data_shard * self.context

    @property
    def expert_data(self) -> int:
        """Processes with the same experts, which shard them."""
        return self.shard // self.expert

    @property
    def data(self) -> int:
        """Process groups that read different rows."""
        return self.data_replicate * self.data_shard


def degrees(options: ParallelOptions, world: int) -> Degrees:
    """Resolve the sizes for `world` processes.

    Raises:
        ConfigError: the degrees do not match `world`, or `expert` does not divide data_shard * context.
    """
    known = options.pipeline * options.data_replicate * options.context
    named = f"pipeline = {options.pipeline}, data_replicate = {options.data_replicate}, context = {options.context}"
    if options.data_shard is None and world % known:
        raise ConfigError(
            f"parallel: {named} make {known}, which does not divide the {world} processes",
            hint="start a multiple of that many, or lower a degree",
        )
    shard = options.data_shard or world // known
    if known * shard != world:
        raise ConfigError(
            f"parallel: {named} and data_shard = {shard} make {known * shard} processes, but there are {world}",
            hint=f"start {known * shard}, or keep data_shard null",
        )
    if shard * options.context % options.expert:
        raise ConfigError(
            f"parallel: expert = {options.expert} does not divide data_shard * context = {shard * options.context}",
            hint="choose a divisor as expert, or another data_shard",
        )
    return Degrees(options.pipeline, options.data_replicate, shard, options.context, options.expert)


def check_batch(sizes: Degrees, batch_size: int, micro_batch_size: int) -> None:
    """Raise ConfigError if a batch cannot be split into whole micro batches."""
    unit = sizes.data * micro_batch_size
    if batch_size % unit:
        raise ConfigError(
            f"parallel: batch_size = {batch_size} is not a multiple of {sizes.data} data groups (data_replicate * "
            f"data_shard) times micro_batch_size = {micro_batch_size}",
            hint=f"choose a batch_size that is a multiple of {unit}",
        )


def check_fits(
    options: ParallelOptions,
    sizes: Degrees,
    model: ModelConfig,
    *,
    sequence_length: int,
    batch_size: int,
    micro_batch_size: int,
) -> None:
    """Raise ConfigError for the first mismatch between model or batch and the degrees."""
    check_batch(sizes, batch_size, micro_batch_size)
    for problem, hint in _problems(options, sizes, model, sequence_length, batch_size, micro_batch_size):
        raise ConfigError(f"parallel: {problem}", hint=hint)


def _problems(
    options: ParallelOptions, sizes: Degrees, model: ModelConfig, length: int, batch: int, micro_batch: int
) -> Iterator[tuple[str, str]]:
    if sizes.context > 1 and length % (2 * sizes.context):
        yield (
            f"sequence_length = {length} is not a multiple of 2 * context = {2 * sizes.context}",
            "every process takes one part from the front and one from the back; choose a multiple, or lower context",
        )
    if sizes.context > 1:
        for kind in sorted(_kinds_of_whole_rows(model)):
            yield f"attention {kind!r} cannot share a row between processes", "set context: 1, or use 'mla'"
    if sizes.expert > 1:
        yield from _expert_problems(sizes, model)
    if sizes.pipeline > 1:
        yield from _pipeline_problems(options, model, batch // (sizes.data * micro_batch))


def _kinds_of_whole_rows(model: ModelConfig) -> set[str]:
    """Attention kinds of the model that do not support context parallelism."""
    if model.default_attention:  # no check needed, and no torch import
        return set()
    return {spec.kind for spec in model.mixers if not spec.mixer.shares_context()}


def _expert_problems(sizes: Degrees, model: ModelConfig) -> Iterator[tuple[str, str]]:
    if model.n_routed_experts % sizes.expert:
        yield (
            f"expert = {sizes.expert} does not divide n_routed_experts = {model.n_routed_experts}",
            "choose a divisor as expert",
        )
    widths = {"hidden_size": model.hidden_size, "2 * expert_ffn_hidden_size": 2 * model.expert_ffn_hidden_size}
    for name, width in widths.items():
        if width % sizes.expert_data:
            yield (
                f"the {sizes.expert_data} processes with the same experts (data_shard * context / expert) do not "
                f"divide {name} = {width}, along which they shard them",
                "choose another data_shard or expert",
            )


def _pipeline_problems(options: ParallelOptions, model: ModelConfig, micro_batches: int) -> Iterator[tuple[str, str]]:
    stages = options.pipeline_stages
    if model.num_layers < stages:
        yield f"{stages} pipeline stages need as many layers, num_layers = {model.num_layers}", "lower pipeline"
    shared = {
        "tie_word_embeddings": (model.tie_word_embeddings, "the embedding table is only on the first stage"),
        "mtp_share_embeddings": (model.mtp_share_embeddings, "the embedding table is only on the first stage"),
    }
    for name, (wanted, reason) in shared.items():
        if wanted:
            yield f"{name} = true with pipeline = {options.pipeline}: {reason}", "set pipeline: 1"
    interleaved = options.pipeline_schedule == "interleaved"
    if micro_batches < options.pipeline or (interleaved and micro_batches % options.pipeline):
        wants = "a multiple of" if interleaved else "at least"
        yield (
            f"{micro_batches} micro batches per data group, but the schedule {options.pipeline_schedule} needs {wants} "
            f"pipeline = {options.pipeline}",
            "lower micro_batch_size, or raise batch_size",
        )
