"""Silent data corruption check: a layer of a step is recomputed and must give the same bits.

The report (section 5) recomputes the gradient of attention on the same chip; here it is a whole layer, forward and
backward, in rotation. Compared are the layer's output and router logits, and the gradients of its inputs and parameters
from this micro batch. The step's gradients are not modified.

Names: B batch, T tokens, D hidden, E experts of both kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from longcat.model.layers.base import LayerOutput
from longcat.pipeline.errors import LongcatError
from longcat.stages.train.stability.measure import due

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
INPUTS = {0: "hidden states", 2: "router logits of the previous layer"}  # by position among a layer's arguments
OUTPUTS = ("output", "router logits")
Tensors = dict[str, torch.Tensor]


def layer_to_check(every: int, done: int, layers: int) -> int | None:
    """Layer to recompute in the step after `done` steps, in rotation; None: no check in this step."""
    return done // every % layers if due(every, done) else None


class LayerRecording:
    """Recorder of one layer in one micro batch: a context around its forward and backward pass.

    Afterwards `compare` recomputes the layer, before the optimizer step. If a layer is on several devices, all of them
    record and compare the same one.
    """

    def __init__(self, layer: nn.Module, index: int) -> None:
        self.layer, self.index = layer, index
        self.arguments: tuple[Any, ...] = ()
        self.outputs: Tensors = {}
        self.into: Tensors = {}
        self.gradients: Tensors = {}
        self._handles: list[Any] = []

    def __enter__(self) -> LayerRecording:
        self._handles = [
            self.layer.register_forward_pre_hook(self._before),
            self.layer.register_forward_hook(self._after),
        ]
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, _layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.arguments or not torch.is_grad_enabled():
            return None  # the layer runs again in the backward pass, with the same values
        self.arguments = tuple(_detached(argument) for argument in arguments)
        for module in _sharded(self.layer):
            module.unshard()  # gradients arrive at the gathered parameters, which are freed after the pass as usual
        for name, parameter in self.layer.named_parameters():
            if parameter.requires_grad:
                self._keep_gradient(parameter, f"gradient of {name}", self.gradients)
        # A separate view isolates this layer's gradient from other readers of the tensor.
        given = list(arguments)
        for place, name in _inputs(arguments):
            given[place] = given[place].view_as(given[place])
            self._keep_gradient(given[place], f"gradient of the {name}", self.gradients)
        return tuple(given)

    def _after(self, _layer: nn.Module, _arguments: tuple[Any, ...], output: LayerOutput) -> LayerOutput | None:
        if self.outputs or not torch.is_grad_enabled():
            return None
        self.outputs = {name: tensor.detach() for name, tensor in _outputs(output).items()}
        # Inside the layer the logits lead to the weights; only the gradient from outside may be passed to the
        # recomputation.
        logits_TE = output.routing.logits_TE.view_as(output.routing.logits_TE)
        output = output._replace(routing=output.routing._replace(logits_TE=logits_TE))
        for name, tensor in _outputs(output).items():
            self._keep_gradient(tensor, name, self.into)
        return output

    def _keep_gradient(self, tensor: torch.Tensor, name: str, kept: Tensors) -> None:
        def keep(gradient: torch.Tensor) -> None:
            if name not in kept:
                kept[name] = _local(gradient.detach()).clone()  # autograd may accumulate the next micro batch in place

        if tensor.requires_grad:
            self._handles.append(tensor.register_hook(keep))

    def compare(self, step: int) -> None:
        """Recompute the layer and compare.

        Raises:
            LongcatError: a bit differs, or no pass was recorded.
        """
        if not self.arguments or OUTPUTS[0] not in self.into:
            raise LongcatError(f"no forward and backward pass of layer {self.index} was recorded", where=f"step {step}")
        with _whole(self.layer):
            outputs, gradients = self._again()
        for first, second in ((self.outputs, outputs), (self.gradients, gradients)):
            for name, tensor in first.items():
                self._check(step, name, tensor, second[name])

    @torch.enable_grad()
    def _again(self) -> tuple[Tensors, Tensors]:
        """Outputs and gradients by name, without changing any parameter's `grad`."""
        wanted = {f"gradient of the {name}": self.arguments[place] for place, name in _inputs(self.arguments)}
        wanted |= {f"gradient of {name}": parameter for name, parameter in self.layer.named_parameters()}
        wanted = {name: tensor for name, tensor in wanted.items() if name in self.gradients}
        outputs = _outputs(self.layer.forward(*self.arguments))
        # FSDP passes zero gradients to unused inputs of a layer.
        found = torch.autograd.grad(
            [outputs[name] for name in self.into],
            list(wanted.values()),
            list(self.into.values()),
            materialize_grads=True,
        )
        return outputs, dict(zip(wanted, map(_local, found), strict=True))

    def _check(self, step: int, name: str, first: torch.Tensor, second: torch.Tensor) -> None:
        bits = differing_bits(first, second)
        if bits:
            total = first.numel() * first.element_size() * 8
            raise LongcatError(
                f"the {name} of layer {self.index} differs when recomputed: {bits} of {total} bits differ",
                where=f"step {step}",
                hint="the machine is faulty or an operation is not deterministic; run `longcat train verify`",
            )


def differing_bits(first: torch.Tensor, second: torch.Tensor) -> int:
    """Number of differing bits of two tensors of equal shape and dtype; NaN equals itself."""
    word = WORDS[first.element_size()]
    one, other = first.detach().contiguous().view(word), second.detach().contiguous().view(word)
    if torch.equal(one, other):
        return 0
    changed = one ^ other
    return sum(int((changed >> bit & 1).sum()) for bit in range(8 * first.element_size()))


def _outputs(output: LayerOutput) -> Tensors:
    """Differentiable tensors of a layer's output, by name."""
    found = dict(zip(OUTPUTS, (output.hidden_BTD, output.routing.logits_TE), strict=True))
    return found | {f"loss {name}": loss for name, loss in output.losses.items()}


def _inputs(arguments: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Position and name of the differentiable tensors among a layer's arguments."""
    for place, value in enumerate(arguments):
        if place in INPUTS and value is not None and value.requires_grad:
            yield place, INPUTS[place]


def _detached(argument: Any) -> Any:
    if not isinstance(argument, torch.Tensor):
        return argument
    return argument.detach().requires_grad_(argument.requires_grad)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _sharded(layer: nn.Module) -> list[FSDPModule]:
    return [module for module in layer.modules() if isinstance(module, FSDPModule)]


@contextmanager
def _whole(layer: nn.Module) -> Iterator[None]:
    """Context in which sharded parameters (FSDP2) are gathered."""
    modules = _sharded(layer)
    for module in modules:
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
