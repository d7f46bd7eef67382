"""Sharded parameters (FSDP2, Zhao et al. 2023), gathered one layer at a time, with optional replication.

Gradients are sums over the processes, not means: a loss is divided by the number of targets of the whole step before
its backward pass. They are reduced after every micro batch, so that a process never holds more than its shard; under a
pipeline torch accumulates full gradients and reduces once per step.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard

from longcat.model.moe.mixture import MixtureOfExperts
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.mesh import Parallel

# Layers return views, and nothing overwrites them.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

# Methods called on a whole model instead of `forward`.
METHODS = ("loss", "mtp_loss_of")


def shard(root: nn.Module, model: LongcatFlash, parallel: Parallel, dtype: torch.dtype) -> None:
    """Replace the parameters of `model` by this process's shards, in place; `root` is the model, or the module that
    calls its layers.

    Weights and gradients keep their dtype; matrix products run in `dtype`, those of routers in the weights' dtype.
    """
    own = MixedPrecisionPolicy(cast_forward_inputs=False)
    half = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = own if dtype == torch.float32 else half
    mesh = parallel.parameter_shards()
    # A pipeline would gather every layer for every micro batch.
    options: dict[str, Any] = {"reshard_after_forward": parallel.sizes.pipeline == 1}
    for layer in _layers(model):
        for mixture in (module for module in layer.modules() if isinstance(module, MixtureOfExperts)):
            _shard_experts(mixture.experts, parallel, {"mp_policy": policy, **options})
            fully_shard(mixture.router, mesh=mesh, mp_policy=own, **options)
        fully_shard(layer, mesh=mesh, mp_policy=policy, **options)
    fully_shard(root, mesh=mesh, mp_policy=policy)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    if root is model:
        for name in METHODS:
            register_fsdp_forward_method(model, name)
            _reshard_without_gradient(model, name)


def _layers(model: LongcatFlash) -> list[nn.Module]:
    """Modules that are gathered as units; pipeline stages have placeholders for layers that they do not hold."""
    mtp = list(model.model.mtp.layers) if model.model.mtp is not None else []
    return [layer for layer in (*model.model.layers, *mtp) if next(layer.parameters(), None) is not None]


def _shard_experts(experts: nn.Module, parallel: Parallel, options: dict[str, Any]) -> None:
    # Experts already distributed along their first dimension are sharded along the second.
    dimension = 1 if parallel.sizes.expert > 1 else 0
    fully_shard(experts, mesh=parallel.expert_shards(), shard_placement_fn=lambda _: Shard(dimension), **options)
    register_fsdp_forward_method(experts, "compute")


def _reshard_without_gradient(model: LongcatFlash, name: str) -> None:
    """Free the root's gathered parameters if no backward pass does so: they would be stale after an optimizer step."""
    method = getattr(model, name)

    def resharding(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        if not torch.is_grad_enabled():
            assert isinstance(model, FSDPModule)  # noqa: S101  this is what `fully_shard` made of it
            model.reshard()
        return result

    setattr(model, name, resharding)
