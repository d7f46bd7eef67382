"""Prepares a loaded model for inference on a CPU: matrices are packed, projections of one input become one matrix.

Names: B batch, T tokens, D hidden, V vocabulary, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from longcat.kernels.packed_linear import PackedMatrix, missing, pack
from longcat.model.attention.base import SequenceMixer
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.errors import ModelError
from longcat.model.ffn import FeedForward
from longcat.model.linear import Linear
from longcat.model.moe.mixture import Experts, MixtureOfExperts
from longcat.model.moe.router import Router
from longcat.model.moe.zero_experts import IdentityExperts
from longcat.model.mtp import MTPLayer
from longcat.model.norm import RMSNorm
from longcat.model.packed.attention import packed_attention, takes
from longcat.model.packed.choice import EXACT, EXPERT_ROWS, ROWS, Chooser
from longcat.model.packed.experts import PackedExperts
from longcat.model.packed.modules import InferenceNorm, PackedFeedForward, PackedLinear
from longcat.model.packed.routing import InferenceRouter
from longcat.model.transformer import LongcatFlash

Weights = Literal["auto", "fp32", "fp16", "bf16", "int8", "int4"]
HeadWeights = Literal["same", "fp32", "fp16", "bf16", "int8", "int4"]
# Forms by part: int4 costs too much where every token passes.
PARTS: Mapping[str, Mapping[str, str]] = {"int4": {"experts": "int4", "head": "int4"}}
REST = {"auto": "fp32", "int4": "int8"}


@dataclass(frozen=True)
class Path:
    """How matrices of one part and shape are multiplied.

    nbytes: what products read. microseconds: by form, for each of the numbers of `rows`.
    """

    part: str
    outputs: int
    inputs: int
    count: int
    form: str
    reason: str
    nbytes: int
    rows: tuple[int, ...]
    microseconds: Mapping[str, tuple[float, ...]]


@dataclass
class Report:
    """Result of `prepare`: a path per part and shape, modules that stayed as they are, and bytes of all matrices."""

    weights: str
    paths: list[Path] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed matrices."""
        return sum(path.nbytes for path in self.paths)

    def lines(self) -> list[str]:
        """One line for each path and each kind of module that stayed."""
        lines = []
        for path in self.paths:
            times = "  ".join(
                f"{form} {'/'.join(f'{time:.0f}' for time in took)} us" for form, took in path.microseconds.items()
            )
            what = f"{path.part} {path.count} x [{path.outputs}, {path.inputs}]: {path.form} ({path.reason})"
            lines.append(f"{what}; {'/'.join(map(str, path.rows))} rows take {times}")
        return [*lines, *(f"{name}: {count} kept as they are" for name, count in self.kept.items())]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"nbytes": self.nbytes}


@torch.no_grad()
def prepare(
    model: LongcatFlash, weights: Weights = "auto", *, head: HeadWeights = "same", chooser: Chooser | None = None
) -> Report:
    """Replace the modules of `model`, in place, by ones on packed matrices; the original parameters are freed.

    `weights`: the form of all matrices unless it is slower than an exact one on this machine; `auto` and `fp32` are
    exact. `head`: the form of the output projection. Norms, routers and the up-projection of latents stay float32. The
    model computes logits and multi-token prediction as before, for any number of rows; it cannot be trained, saved or
    prepared again.

    Raises:
        ModelError: the model is not float32 on a CPU, was prepared before, or this machine lacks the form.
    """
    _check(model, weights, head)
    return _Preparation(model, weights, head, chooser or Chooser()).run()


def _check(model: LongcatFlash, weights: str, head: str) -> None:
    if isinstance(model, PreparedModel):
        raise ModelError("the model has packed weights already; load it again to pack it in another form")
    if weights not in get_args(Weights) or head not in get_args(HeadWeights):
        raise ModelError(f"weights = {weights!r}, head = {head!r}: choose from {', '.join(get_args(Weights))}")
    odd = next(
        (name for name, p in model.named_parameters() if p.device.type != "cpu" or p.dtype != torch.float32), None
    )
    if odd is not None:
        raise ModelError(f"packed weights are made from float32 on a CPU; {odd} is not: load with dtype float32")
    for form in (weights, head):
        reason = missing(form)
        # Float32 as it is can always be used.
        if reason is not None and form not in EXACT:
            raise ModelError(f"weights {form} cannot be used here: {reason}; use auto")


class PreparedModel(LongcatFlash):
    """A model after `prepare`."""

    output: nn.Module

    def project_output(self, h_BTD: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V]."""
        logits_BTV: torch.Tensor = self.output(h_BTD)
        return logits_BTV

    @property
    def output_weight(self) -> torch.Tensor:
        raise ModelError("packed weights are for inference; load the model without them to train or save it")


class _Preparation:
    def __init__(self, model: LongcatFlash, weights: str, head: str, chooser: Chooser) -> None:
        self.model, self.weights, self.head, self.chooser = model, weights, head, chooser
        self.paths: dict[tuple[str, int, int], Path] = {}

    def run(self) -> Report:
        self._children(self.model.model)
        weight = self.model.output_weight
        output = PackedLinear(self._pack("head", weight))
        self.model.lm_head = None
        self.model.requires_grad_(False)
        self.model.__class__ = PreparedModel
        self.model.output = output
        report = Report(self.weights, paths=sorted(self.paths.values(), key=lambda path: -path.nbytes))
        report.kept = _kept(self.model)
        return report

    def _children(self, module: nn.Module) -> None:
        for name, child in list(module.named_children()):
            new = self._replacement(child)
            if new is not child:
                module._modules[name] = new
            elif not isinstance(child, SequenceMixer):
                self._children(child)
        if isinstance(module, MixtureOfExperts):
            self._identity(module)
        if isinstance(module, MTPLayer):
            module._modules["eh_proj"] = PackedLinear(self._pack("multi-token prediction", module.eh_proj.weight))

    def _replacement(self, module: nn.Module) -> nn.Module:
        make = REPLACEMENTS.get(type(module))
        if make is not None:
            return make(self, module)
        if isinstance(module, MultiHeadLatentAttention) and takes(module):
            return self._attention(module)
        return module

    def _pack(self, part: str, weight_OI: torch.Tensor) -> PackedMatrix:
        outputs, inputs = weight_OI.shape
        rows = EXPERT_ROWS if part == "experts" else ROWS
        choice = self.chooser.choose(outputs, inputs, self._wanted(part), rows)
        matrix = pack(weight_OI, choice.form)
        known = self.paths.get((part, outputs, inputs))
        count, nbytes = (known.count, known.nbytes) if known else (0, 0)
        self.paths[part, outputs, inputs] = Path(
            part,
            outputs,
            inputs,
            count + 1,
            choice.form,
            choice.reason,
            nbytes + matrix.nbytes,
            rows,
            choice.microseconds,
        )
        return matrix

    def _wanted(self, part: str) -> str:
        if part == "head" and self.head != "same":
            return self.head
        return PARTS.get(self.weights, {}).get(part, REST.get(self.weights, self.weights))

    def _feed_forward(self, module: FeedForward) -> nn.Module:
        gate_up = torch.cat((module.gate_proj.weight, module.up_proj.weight))
        return PackedFeedForward(
            self._pack("dense gate_up", gate_up), self._pack("dense down", module.down_proj.weight)
        )

    def _experts(self, module: Experts) -> nn.Module:
        gate_up = [self._pack("experts", weight) for weight in module.gate_up_proj.unbind()]
        return PackedExperts(gate_up, [self._pack("experts", weight) for weight in module.down_proj.unbind()])

    @staticmethod
    def _identity(mixture: MixtureOfExperts) -> None:
        """Give identity experts to the packed experts."""
        experts, identity = mixture.experts, mixture.zero_experts._modules.get("identity")
        if isinstance(experts, PackedExperts) and type(identity) is IdentityExperts:
            experts.identity = identity.first
            del mixture.zero_experts["identity"]

    def _attention(self, mixer: MultiHeadLatentAttention) -> nn.Module:
        joint = torch.cat((mixer.q_a_proj.weight, mixer.kv_a_proj_with_mqa.weight))
        packed = packed_attention(
            mixer, self._pack("attention q_a kv_a", joint), self._pack("attention q_b", mixer.q_b_proj.weight)
        )
        if type(mixer.o_proj) is Linear:
            packed._modules["o_proj"] = PackedLinear(self._pack("attention o", mixer.o_proj.weight))
        return packed


REPLACEMENTS: dict[type[nn.Module], Callable[[_Preparation, Any], nn.Module]] = {
    FeedForward: _Preparation._feed_forward,
    Experts: _Preparation._experts,
    RMSNorm: lambda _, module: InferenceNorm(module.weight.detach(), module.eps),
    Router: lambda _, module: InferenceRouter(module),
}


def _kept(model: nn.Module) -> dict[str, int]:
    """Modules with parameters of their own that stayed, by class and name of the parameter."""
    kept: dict[str, int] = {}
    for module in model.modules():
        for name, _ in module.named_parameters(recurse=False):
            label = f"{type(module).__name__}.{name}"
            kept[label] = kept.get(label, 0) + 1
    return kept
