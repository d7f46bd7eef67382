"""Hyperparameter transfer from a narrow model, the proxy, to a wide one; `stages.train.optim.kinds` has the rule.

Depth, sparsity and batch should be equal, otherwise transferred values fit less well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError
from longcat.model.width import WIDTHS
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import build_config, merge
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError
from longcat.pipeline.files import read_json
from longcat.pipeline.validation import reason_of
from longcat.stages.formats.architecture import read_architecture
from longcat.stages.formats.training_state import TrainingState, read_state
from longcat.stages.train.config import TrainConfig, WeightRescalingOptions
from longcat.stages.train.optim.kinds import KIND_KEYS

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput

PROXY_FILE = "proxy.json"

# Configuration keys of `train` that are transferred from a proxy.
TRANSFERRED = (
    *("learning_rate", "model.initializer_range"),
    *("optimizer.kind", "optimizer.muon", "optimizer.cautious_decay"),
    *("optimizer.beta1", "optimizer.beta2", "optimizer.eps", "optimizer.weight_decay"),
    *("balance.mu", "balance.final_mu_ratio"),
    *("schedule.kind", "schedule.warmup_steps", "schedule.decay_fraction", "schedule.minimum_ratio"),
    *KIND_KEYS,
)
# Those that the configuration of an earlier version lacks; their defaults are what it did.
LATER = ("optimizer.kind", "optimizer.muon", "optimizer.cautious_decay")


class Proxy(BaseModel):
    """A proxy: architecture, training configuration, and its own width scale s (1 unless the proxy had a proxy)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    model: dict[str, Any]
    config: dict[str, Any]
    width_scale: float = Field(default=1.0, gt=0)

    @property
    def architecture(self) -> ModelConfig:
        """Parse the architecture; raises ConfigError if it is invalid."""
        try:
            return ModelConfig.from_dict(self.model, source=f"proxy {self.id}")
        except ModelConfigError as error:
            raise ConfigError(str(error)) from None


@dataclass(frozen=True)
class Transfer:
    """Result of a transfer: resolved configuration, s, and transferred values by key."""

    config: TrainConfig
    scale: float
    proxy: Proxy
    taken: Mapping[str, Any]

    def metrics(self) -> dict[str, Any]:
        """Values for the manifest."""
        return {"transfer": {"proxy": self.proxy.id, "width_scale": self.scale, **self.taken}}


def read_proxy(artifact: Artifact) -> Proxy:
    """Read a proxy from a checkpoint or the report of a sweep.

    Raises:
        ConfigError: the artifact is another report, or a checkpoint that was not trained here.
        IntegrityError: its files cannot be read.
    """
    if artifact.kind == "report":
        if artifact.manifest.stage != "train.sweep":
            raise ConfigError(f"{artifact.id} is a report of {artifact.manifest.stage}, not of train.sweep")
        try:
            found = read_json(artifact.file(PROXY_FILE))
            if found is None:
                raise ConfigError(f"every point of the sweep {artifact.id} diverged", hint="sweep lower learning rates")
            return Proxy.model_validate({**found, "id": artifact.id})
        except ValueError as error:
            raise IntegrityError(reason_of(error), where=str(artifact.file(PROXY_FILE))) from None
    return proxy_of(artifact.id, read_architecture(artifact), read_state(artifact))


def foreseen_proxy(planned: PlannedInput) -> Proxy | None:
    """The proxy of an artifact, or of a checkpoint that another plan will make; None: not known yet.

    Raises:
        LongcatError: as `read_proxy`.
    """
    if planned.artifact is not None:
        return read_proxy(planned.artifact)
    model, state = planned.forecast.get("model"), planned.forecast.get("state")
    return proxy_of(planned.id, model, state) if model is not None and state is not None and state.config else None


def proxy_of(identifier: str, model: ModelConfig, state: TrainingState) -> Proxy:
    """A checkpoint as a proxy; raises ConfigError if it does not record how it was trained."""
    if not state.config:
        raise ConfigError(f"the checkpoint {identifier} does not record how it was trained", hint="train one here")
    config = merge(state.config, {"kinds": state.kinds})
    return Proxy(id=identifier, model=model.to_dict(), config=config, width_scale=state.width_scale)


def transfer(config: TrainConfig, target: ModelConfig, proxy: Proxy) -> Transfer:
    """Fill `config` from `proxy` for a model of the architecture `target`.

    Values set in the configuration (`own_settings`) are kept.

    Raises:
        ConfigError: the configuration of the proxy lacks a value.
    """
    architecture, own = proxy.architecture, own_settings(config)
    taken: dict[str, Any] = {}
    values = config.model_dump()
    for key in TRANSFERRED:
        if key in own:
            continue
        try:
            value = architecture.initializer_range if key == "model.initializer_range" else value_at(proxy.config, key)
        except KeyError:
            if key in (*KIND_KEYS, *LATER):
                continue
            raise ConfigError(f"the proxy {proxy.id} was trained without {key}", hint=f"give {key} yourself") from None
        if value is None and key in KIND_KEYS:
            continue
        if key == "optimizer.muon" and values["optimizer"]["kind"] != "muon":
            continue
        taken[key] = value
        values = merge(values, _nested(key, value))
    values["model"].setdefault("initializer_range", target.initializer_range)
    resolved = build_config(TrainConfig, values, where=f"settings of the proxy {proxy.id}")
    return Transfer(resolved, proxy.width_scale * target.hidden_size / architecture.hidden_size, proxy, taken)


def own_settings(config: TrainConfig) -> set[str]:
    """Keys that are not transferred: those that differ from their default, and those in `keep_own`.

    Raises:
        ConfigError: `keep_own` names a key that is never transferred.
    """
    if unknown := sorted(set(config.keep_own) - set(TRANSFERRED)):
        raise ConfigError(
            f"keep_own: {unknown[0]!r} is not transferred from a proxy", hint=f"keys: {', '.join(TRANSFERRED)}"
        )
    default = TrainConfig(steps=1).model_dump()
    return set(config.keep_own) | given_settings(config.model_dump(), default)


def given_settings(values: Mapping[str, Any], default: Mapping[str, Any] | None = None) -> set[str]:
    """Keys of `TRANSFERRED` that are in a nested mapping and differ from `default`."""
    found = set()
    for key in TRANSFERRED:
        with suppress(KeyError):
            value = value_at(values, key)
            found.add(key)
            if value == value_at(default or {}, key):
                found.remove(key)
    return found


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key. Raises KeyError if missing."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping):
            raise KeyError(key)
        found = found[part]
    return found


def _nested(key: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} of `a.b`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def differences(config: TrainConfig, target: ModelConfig, proxy: Proxy) -> Iterator[str]:
    """Warnings that transfer may not hold between two models, one sentence each."""
    architecture = proxy.architecture
    names = (
        *("num_layers", "n_routed_experts", "zero_expert_num", "moe_topk", "routed_scaling_factor", "moe_layout"),
        *("span_scale", "ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num"),
        *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    )
    for name in names:
        before, after = getattr(architecture, name), getattr(target, name)
        if before != after:
            yield f"{name} is {after}, the proxy's is {before}; only the width may differ"
    ratio = target.hidden_size / architecture.hidden_size
    for name in WIDTHS:
        found = getattr(target, name) / getattr(architecture, name)
        if found != ratio:
            yield f"{name} is {found:g} times the proxy's, hidden_size {ratio:g} times"
    own, other = config.optimizer.weight_rescaling, _rescaling(proxy)
    if own != other:
        values = f"{own.model_dump()}, the proxy's is {other.model_dump()}"
        yield f"optimizer.weight_rescaling is {values}; it is not transferred"
    if target.tie_word_embeddings:
        yield "tie_word_embeddings: the output projection is scaled like an embedding, so logits grow with the width"
    if "batch_size" not in proxy.config:  # phases have their own batch sizes
        return
    before = proxy.config["batch_size"] * proxy.config["sequence_length"]
    after = config.batch_size * config.sequence_length
    if before != after:
        yield f"the batch is {after} tokens, the proxy's is {before}"


def _rescaling(proxy: Proxy) -> WeightRescalingOptions:
    """That of the proxy's training; older ones had none."""
    return WeightRescalingOptions(**proxy.config.get("optimizer", {}).get("weight_rescaling", {}))


def check_new(*, continued: bool) -> None:
    """Raise InputError if a checkpoint is continued: its widths and initialization are fixed."""
    if continued:
        raise InputError("a proxy is for a new model, a checkpoint has its own settings", hint="remove one of them")
