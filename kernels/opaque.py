"""Operations that are opaque to torch.compile, because compiling their reference would give slower code.

While tracing, `kernels.select.select` returns the reference, whose plain operations a compiler can fuse. This works for
norms, activations and rotary embeddings. Attention, however, would build all scores, and experts would loop over
lengths that are not known while tracing. Such operations are one node of the graph, a `torch.library.custom_op`, which
at run time calls the public function and therefore the version for the device.

The gradient calls the function again and differentiates that call, because a node can only save its inputs. Compiled
training therefore computes the forward of the operation twice, unlike a call outside compiled code.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Function = Callable[..., Any]


def opaque(operation: str, schema: str, function: Function, fake: Function, differentiable: Sequence[int]) -> Function:
    """A node `longcat::<operation>` that calls `function`; only its first result has a gradient.

    schema: types of arguments and results, in the syntax of `torch.library`; arguments have a type and a name.
    fake: returns the shapes and dtypes of the results for given arguments, all contiguous.
    differentiable: the positions of the tensor arguments that may get a gradient; if empty, the node has no gradient.
    """

    arguments, _, returns = schema.partition(") -> ")

    def forward(*args: Any) -> Any:
        *given, recording = args
        # Versions depend on whether gradients are enabled; nothing is recorded here, because no input requires a
        # gradient.
        with torch.set_grad_enabled(recording):
            results = function(*(x.detach() if isinstance(x, torch.Tensor) else x for x in given))
        return tuple(x.contiguous() for x in results) if isinstance(results, tuple) else results.contiguous()

    node = torch.library.custom_op(
        f"longcat::{operation}", forward, mutates_args=(), schema=f"{arguments}, bool recording) -> {returns}"
    )
    node.register_fake(lambda *args: fake(*args[:-1]))
    if differentiable:
        _register_gradient(node, operation, arguments, function, tuple(differentiable))
    return lambda *args: node(*args, torch.is_grad_enabled())


def _register_gradient(
    node: Any, operation: str, arguments: str, function: Function, differentiable: tuple[int, ...]
) -> None:
    def gradients(*args: Any) -> list[torch.Tensor]:
        *given, grad, needed = args
        inputs = [
            x.detach().requires_grad_(index in differentiable and needed[differentiable.index(index)])
            if isinstance(x, torch.Tensor)
            else x
            for index, x in enumerate(given)
        ]
        wanted = [inputs[index] for index, need in zip(differentiable, needed, strict=True) if need]
        with _recording():
            results = function(*inputs)
            first = results[0] if isinstance(results, tuple) else results
            found = iter(torch.autograd.grad(first, wanted, grad))
        return [next(found).contiguous() if need else grad.new_empty(0) for need in needed]

    def fake(*args: Any) -> list[torch.Tensor]:
        *given, grad, needed = args
        shapes = (given[index] for index in differentiable)
        return [x.new_empty(x.shape) if need else grad.new_empty(0) for x, need in zip(shapes, needed, strict=True)]

    backward_node = torch.library.custom_op(
        f"longcat::{operation}_gradients", gradients, mutates_args=(),
        schema=f"{arguments}, Tensor grad, bool[] needed) -> Tensor[]",
    )  # fmt: skip
    backward_node.register_fake(fake)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.tensor_places = [index for index, x in enumerate(inputs) if isinstance(x, torch.Tensor)]
        ctx.others = [None if isinstance(x, torch.Tensor) else x for x in inputs[:-1]]
        ctx.save_for_backward(*(inputs[index] for index in ctx.tensor_places))

    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        inputs = list(ctx.others)
        for index, tensor in zip(ctx.tensor_places, ctx.saved_tensors, strict=True):
            inputs[index] = tensor
        needed = [ctx.needs_input_grad[index] for index in differentiable]
        found = dict(zip(differentiable, backward_node(*inputs, grads[0].contiguous(), needed), strict=True))
        wanted = (index in found and ctx.needs_input_grad[index] for index in range(len(inputs)))
        return *(found[index] if want else None for index, want in enumerate(wanted)), None

    node.register_autograd(backward, setup_context=setup_context)


@contextmanager
def _recording() -> Iterator[None]:
    """Record gradients inside a node, where torch excludes the autograd dispatch keys."""
    keys = (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView)
    excluded = [torch._C._dispatch_tls_is_dispatch_key_excluded(key) for key in keys]
    for key in keys:
        torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for key, before in zip(keys, excluded, strict=True):
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, before)
