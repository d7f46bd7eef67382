"""Order of exchanges relative to other work, in a group of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.all_to_all import Exchange
from longcat.stages.train.parallel.config import ParallelOptions
from longcat.stages.train.parallel.expert import ExpertParallelExperts, distribute_experts
from longcat.stages.train.parallel.mesh import Parallel

Events = list[str]


@pytest.fixture
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """Events of exchanges, in order."""
    found: Events = []
    launch, wait = Exchange.launch, Exchange.wait

    def watched_launch(self: Exchange, *args: Any) -> torch.Tensor:
        found.append("launch")
        return launch(self, *args)

    def watched_wait(self: Exchange) -> None:
        if self._work is not None:
            found.append("wait")
        wait(self)

    monkeypatch.setattr(Exchange, "launch", watched_launch)
    monkeypatch.setattr(Exchange, "wait", watched_wait)
    return found


class Marked(torch.autograd.Function):
    """The identity, which records when it runs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, name: str, events: Events) -> torch.Tensor:
        ctx.name, ctx.events = name, events
        events.append(name)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.events.append(f"{ctx.name} back")
        return gradients[0], None, None


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("overlap", [True, False])
def test_other_work_runs_between_start_and_finish_in_both_directions(events: Events, overlap: bool) -> None:
    exchange = Exchange(dist.group.WORLD, [3], [3], overlap)
    x, other = torch.randn(3, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    pending = exchange.start(x * 2)
    work = Marked.apply(other * 3, "work", events)
    y = exchange.finish(pending)
    assert torch.equal(y, x * 2)
    (y.sum() + work.sum()).backward()
    if overlap:
        assert events == ["launch", "work", "wait", "launch", "work back", "wait"]
    else:
        assert events == ["launch", "wait", "work", "launch", "wait", "work back"]
    assert torch.equal(x.grad, torch.full((3, 2), 2.0))


@pytest.mark.usefixtures("one_process")
def test_dense_path_of_a_layer_overlaps_both_exchanges(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LongcatFlash(load_preset("smoke"))
    initialize(model, 0)
    ids = torch.arange(32).view(2, 16)
    model.loss(ids, ids)[0].backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}

    distribute_experts(model, Parallel.join(ParallelOptions(), torch.device("cpu")))
    layer = model.model.layers[0]
    for name, module in (("dense", layer.mlps[0]), ("second dense", layer.mlps[1])):
        module.register_forward_hook(lambda _, __, y, name=name: Marked.apply(y, name, events))
    layer.self_attn[1].register_forward_hook(
        lambda _, __, mixed: mixed._replace(y_BTD=Marked.apply(mixed.y_BTD, "attention", events))
    )
    loss, _, _ = model.loss(ids, ids)
    to_experts, home = ["launch", "dense", "attention", "wait"], ["launch", "second dense", "wait"]
    assert events[:7] == [*to_experts, *home]
    del events[:]
    model.zero_grad()
    loss.backward()
    back_home, back = ["launch", "second dense back", "wait"], ["launch", "attention back", "dense back", "wait"]
    assert events[-7:] == [*back_home, *back]
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.to_local() if "experts" in name else parameter.grad
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)
    assert isinstance(layer.mlp.experts, ExpertParallelExperts)
