"""Every version of every operation compared with the float64 reference, forward and backward, also empty shapes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from longcat.kernels import (
    cross_entropy,
    delta_rule,
    expert_combine,
    expert_gather,
    feed_forward,
    grouped_mlp,
    linear,
    linear_cross_entropy,
    mla_attention,
    mla_project,
    mla_sparse,
    rms_norm,
    rope,
    router,
    short_convolution,
    swiglu,
)
from longcat.kernels.expert_order import expert_order

TOLERANCE = 2e-6  # relative RMS error of a float32 result
OPERATIONS = (
    rms_norm,
    linear,
    swiglu,
    feed_forward,
    rope,
    router,
    grouped_mlp,
    expert_gather,
    expert_combine,
    mla_attention,
    mla_project,
    mla_sparse,
    cross_entropy,
    linear_cross_entropy,
    delta_rule,
    short_convolution,
)
VERSIONS = {module.__name__.removeprefix("longcat.kernels."): module.VERSIONS for module in OPERATIONS}


@dataclass
class Case:
    """One call as a function of the tensors that get gradients; its name starts with the name of the operation."""

    name: str
    call: Callable[..., Any]
    inputs: list[torch.Tensor]
    absolute: float = 1e-12  # error allowed where the exact result is zero

    @property
    def operation(self) -> str:
        return self.name.partition("(")[0].partition(" ")[0]


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def norm_case(*shape: int) -> Case:
    call = lambda x, w: rms_norm.rms_norm(x, w, 1e-5)  # noqa: E731
    return Case(f"rms_norm{shape}", call, [randn(*shape), randn(shape[-1])])


def linear_case(rows: tuple[int, ...], inputs: int, outputs: int) -> Case:
    return Case(f"linear({rows},{inputs},{outputs})", linear.linear, [randn(*rows, inputs), randn(outputs, inputs)])


def swiglu_case(*shape: int) -> Case:
    return Case(f"swiglu{shape}", swiglu.swiglu, [randn(*shape), randn(*shape)])


def feed_forward_case(rows: tuple[int, ...], width: int, inner: int) -> Case:
    inputs = [randn(*rows, width), randn(inner, width), randn(inner, width), randn(width, inner)]
    return Case(f"feed_forward({rows},{width},{inner})", feed_forward.feed_forward, inputs)


def project_case(batch: int, tokens: int, heads: int) -> Case:
    """The four results concatenated to one tensor with one row per token."""
    width, query, latent, nope, rotary = 12, 6, 8, 5, 4
    angles = randn(tokens, rotary // 2) * 100

    def call(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        projections = mla_project.Projections(*weights, heads, 1.5, 0.75, 1e-6)
        results = mla_project.mla_project(x, angles, projections)
        return torch.cat([result.flatten(2) for result in results], dim=-1)

    inputs = [
        randn(batch, tokens, width),
        randn(query, width),
        randn(query),
        randn(heads * (nope + rotary), query),
        randn(latent + rotary, width),
        randn(latent),
    ]
    return Case(f"mla_project({batch},{tokens},{heads})", call, inputs)


def rope_case(batch: int, tokens: int, heads: int, width: int, before: int) -> Case:
    """`before` values precede the rotary ones in memory, as in the queries of a head."""
    angles = randn(tokens, width // 2) * 100
    call = lambda x: rope.rope(x[..., before:], angles)  # noqa: E731
    name = f"rope({batch},{tokens},{heads},{width})+{before}"
    return Case(name, call, [randn(batch, tokens, heads, before + width)])


def router_case(tokens: int, experts: int, topk: int) -> Case:
    bias = randn(experts) * 0.1
    call = lambda x: router.route(x, bias.to(x.dtype), topk, 6.0).weights_TK  # noqa: E731
    return Case(f"router({tokens},{experts},{topk})", call, [randn(tokens, experts)])


def mlp_case(counts: list[int], width: int, inner: int) -> Case:
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    call = lambda x, gate_up, down: grouped_mlp.grouped_mlp(x, gate_up, down, ends)  # noqa: E731
    inputs = [randn(sum(counts), width), randn(len(counts), 2 * inner, width), randn(len(counts), width, inner)]
    return Case(f"grouped_mlp({counts},{width},{inner})", call, inputs)


def slots(tokens: int, topk: int, low: int, high: int) -> torch.Tensor:
    """Distinct experts per token in the range from `low` to `high` (exclusive)."""
    return torch.stack([low + torch.randperm(high - low)[:topk] for _ in range(tokens)]).view(tokens, topk)


def gather_case(name: str, experts_TK: torch.Tensor, width: int, num_experts: int = 6) -> Case:
    order = expert_order(experts_TK, num_experts)
    call = lambda x: expert_gather.expert_gather(x, order)  # noqa: E731
    return Case(f"expert_gather {name}", call, [randn(experts_TK.shape[0], width)])


def combine_case(name: str, experts_TK: torch.Tensor, width: int, num_experts: int = 6) -> Case:
    order = expert_order(experts_TK, num_experts)
    call = lambda rows, weights: expert_combine.expert_combine(rows, weights, order)  # noqa: E731
    inputs = [randn(order.token_R.shape[0], width), randn(*experts_TK.shape)]
    return Case(f"expert_combine {name}", call, inputs)


def attention_case(
    batch: int,
    tokens: int,
    keys: int,
    heads: int,
    widths: tuple[int, int],
    bounds: list[int] | None = None,
    window: tuple[int, ...] | None = None,
) -> Case:
    cu_seqlens = None if bounds is None else torch.tensor(bounds, dtype=torch.int32)
    qk, v = widths
    call = lambda *qkv: mla_attention.mla_attention(*qkv, qk**-0.5, cu_seqlens, window)  # noqa: E731
    inputs = [randn(batch, tokens, heads, qk), randn(batch, keys, heads, qk), randn(batch, keys, heads, v)]
    name = f"mla_attention({batch},{tokens},{keys},{heads},{widths},{bounds},{window})"
    # The gradient of a single weight is zero, which flash attention computes as a difference of two sums.
    return Case(name, call, inputs, absolute=4e-6 if keys == 1 or window == (1,) else 1e-12)


def delta_case(batch: int, tokens: int, heads: int, widths: tuple[int, int], bounds: list[int] | None = None) -> Case:
    """Outputs and, after them, final states; decays of up to 20 at some places."""
    cu_seqlens = None if bounds is None else torch.tensor(bounds, dtype=torch.int32)
    width, values = widths

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        erase, write, *state = rest
        inputs = (F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, g, erase, write)
        given = {"state_BHKV": state[0]} if state else {"cu_seqlens": cu_seqlens}
        o, last = delta_rule.delta_rule(*inputs, scale=0.7, **given)
        return torch.cat((o.flatten(), last.to(o.dtype).flatten()))

    shape = (batch, tokens, heads)
    g = -20 * torch.rand(*shape, width, dtype=torch.float64) ** 8
    gates = [torch.rand(*shape, size, dtype=torch.float64) for size in (width, values)]
    inputs = [randn(*shape, width), randn(*shape, width), randn(*shape, values), g, *gates]
    state = [] if bounds else [randn(batch, heads, width, values)]
    return Case(f"delta_rule({batch},{tokens},{heads},{widths},{bounds})", call, [*inputs, *state])


def convolution_case(batch: int, tokens: int, channels: int, taps: int, bounds: list[int] | None = None) -> Case:
    cu_seqlens = None if bounds is None else torch.tensor(bounds, dtype=torch.int32)
    call = lambda x, weight: short_convolution.short_convolution(x, weight, cu_seqlens)  # noqa: E731
    name = f"short_convolution({batch},{tokens},{channels},{taps},{bounds})"
    return Case(name, call, [randn(batch, tokens, channels), randn(channels, taps)])


def sparse_case(tokens: int, keys: int, heads: int, widths: tuple[int, int], count: int) -> Case:
    """Two rows; every third query has fewer positions, the first of them none."""
    latent, rope = widths
    order = torch.stack([torch.randperm(keys, device="cpu")[:count] for _ in range(2 * tokens)]) if tokens else None
    chosen_BTK = torch.zeros(2, 0, count, dtype=torch.int64) if order is None else order.view(2, tokens, -1)
    for query in range(0, tokens, 3):
        chosen_BTK[:, query, query:] = -1
    chosen_BTK = chosen_BTK.to(torch.get_default_device())
    call = lambda q, e: mla_sparse.mla_sparse(q, e, chosen_BTK, latent, 0.3)  # noqa: E731
    inputs = [randn(2, tokens, heads, latent + rope), randn(2, keys, latent + rope)]
    return Case(f"mla_sparse({tokens},{keys},{heads},{widths},{count})", call, inputs, absolute=4e-6)


def loss_case(name: str, targets: list[int], vocabulary: int) -> Case:
    targets_T = torch.tensor(targets, dtype=torch.int64)
    call = lambda logits: cross_entropy.cross_entropy(logits, targets_T)[0]  # noqa: E731
    return Case(f"cross_entropy {name}", call, [3 * randn(len(targets), vocabulary)])


def z_case(name: str, targets: list[int], vocabulary: int) -> Case:
    targets_T = torch.tensor(targets, dtype=torch.int64)
    call = lambda logits: cross_entropy.cross_entropy_with_z(logits, targets_T, 0.1)[0]  # noqa: E731
    return Case(f"cross_entropy with z, {name}", call, [3 * randn(len(targets), vocabulary)])


def linear_loss_case(name: str, targets: list[int], width: int, vocabulary: int) -> Case:
    targets_T = torch.tensor(targets, dtype=torch.int64)
    call = lambda *pair: linear_cross_entropy.linear_cross_entropy(*pair, targets_T, 0.1)[0]  # noqa: E731
    return Case(f"linear_cross_entropy {name}", call, [randn(len(targets), width), randn(vocabulary, width)])


def all_cases() -> list[Case]:
    torch.manual_seed(0)
    mixed, dense, idle = slots(17, 3, 0, 9), slots(17, 3, 0, 6), slots(17, 3, 6, 9)
    one, published = torch.full((4, 1), 2), slots(3, 12, 0, 768)
    return [
        *(norm_case(*shape) for shape in [(1, 2), (3, 5), (2, 7, 64), (33, 192), (0, 8)]),
        *(linear_case(*sizes) for sizes in [((3,), 5, 7), ((2, 40), 12, 9), ((0,), 4, 3), ((64,), 1, 1)]),
        *(swiglu_case(*shape) for shape in [(1, 1), (2, 9, 33), (0, 4)]),
        *(feed_forward_case(rows, 8, 12) for rows in [(1, 1), (2, 1), (3, 4), (0, 2)]),
        feed_forward_case((2, 20), 70, 150),
        *(
            rope_case(*sizes)
            for sizes in [(2, 5, 3, 8, 0), (1, 1, 1, 2, 3), (2, 4, 3, 6, 5), (1, 0, 2, 4, 0), (3, 70, 3, 8, 2)]
        ),
        *(router_case(*sizes) for sizes in [(13, 7, 3), (1, 1, 1), (5, 6, 6), (9, 768, 12), (0, 8, 2)]),
        mlp_case([3, 0, 5, 1], 8, 16),
        mlp_case([0, 65, 0, 0], 16, 4),
        mlp_case([3, 0, 5, 1], 6, 5),
        mlp_case([0, 0, 0], 8, 8),
        mlp_case([7], 4, 12),
        mlp_case([0, 0, 150], 24, 72),
        *(gather_case(name, x, 5) for name, x in [("mixed", mixed), ("dense", dense), ("idle", idle)]),
        gather_case("no tokens", mixed[:0], 5),
        gather_case("one expert", one, 5),
        gather_case("12 of 768", published, 2050, 512),
        *(combine_case(name, x, 5) for name, x in [("mixed", mixed), ("dense", dense), ("idle", idle)]),
        combine_case("no tokens", mixed[:0], 5),
        combine_case("one expert", one, 5),
        combine_case("12 of 768", published, 2050, 512),
        attention_case(2, 17, 17, 3, (12, 8)),
        attention_case(1, 1, 1, 1, (6, 10)),
        attention_case(2, 5, 19, 2, (12, 8)),
        attention_case(1, 530, 530, 2, (12, 8)),
        attention_case(3, 130, 130, 3, (6, 10)),
        attention_case(1, 3, 530, 2, (12, 8)),
        attention_case(1, 140, 300, 1, (192, 128)),
        attention_case(2, 0, 3, 2, (6, 4)),
        attention_case(0, 2, 2, 2, (6, 4)),
        attention_case(2, 16, 16, 2, (6, 4), [0, 3, 3, 20, 32]),
        attention_case(1, 300, 300, 1, (64, 16), [0, 100, 127, 128, 257, 300]),
        attention_case(1, 700, 700, 1, (6, 4), [0, 600, 601, 700]),
        attention_case(2, 9, 9, 2, (6, 4), window=(1,)),
        attention_case(2, 5, 300, 2, (12, 8), window=(40, 3)),
        attention_case(1, 530, 530, 2, (12, 8), window=(40,)),
        attention_case(1, 700, 700, 1, (6, 4), window=(64, 16, 16)),
        attention_case(2, 16, 16, 2, (6, 4), [0, 3, 3, 20, 32], window=(3, 1)),
        attention_case(1, 700, 700, 1, (6, 4), [0, 600, 601, 700], window=(64, 32, 32)),
        attention_case(1, 140, 300, 1, (192, 128), window=(128, 64, 64)),
        *(project_case(*sizes) for sizes in [(1, 1, 2), (3, 1, 2), (2, 5, 3), (1, 0, 2)]),
        *(delta_case(*sizes) for sizes in [(2, 1, 3, (6, 4)), (1, 2, 1, (4, 6)), (2, 75, 2, (12, 20))]),
        delta_case(2, 40, 2, (8, 6), [0, 3, 3, 50, 51, 80]),
        *(convolution_case(*sizes) for sizes in [(2, 9, 5, 4), (1, 1, 3, 4), (3, 2, 1, 4), (1, 0, 2, 4), (2, 5, 3, 1)]),
        convolution_case(2, 12, 5, 4, [0, 1, 1, 3, 12, 20, 24]),
        *(
            sparse_case(*sizes)
            for sizes in [
                (5, 9, 3, (7, 4), 4),
                (1, 40, 20, (16, 16), 40),
                (9, 12, 2, (24, 8), 11),
                (4, 6, 1, (5, 0), 1),
            ]
        ),
        sparse_case(0, 3, 2, (6, 4), 2),
        loss_case("plain", [3, 0, 10, 5], 11),
        loss_case("some ignored", [3, -100, 10, -100, 0], 11),
        loss_case("all ignored", [-100, -100], 11),
        loss_case("one word", [0, 0], 1),
        loss_case("several blocks", [7, -100, 2**17 - 1], 2**17),
        loss_case("no targets", [], 11),
        z_case("some ignored", [3, -100, 10, -100, 0], 11),
        z_case("several tiles", [7, -100, 16499], 16500),
        linear_loss_case("plain", [3, 0, 10, 5], 6, 11),
        linear_loss_case("some ignored", [3, -100, 10, -100, 0], 5, 11),
        linear_loss_case("all ignored", [-100, -100], 5, 11),
        linear_loss_case("no targets", [], 5, 11),
    ]


CASES = all_cases()


def forced(version: str, cases: list[Case]) -> list[Any]:
    """Cases of all operations with this version, each with the setting that forces it."""
    return [
        pytest.param(case, f"{case.operation}={version}", id=f"{version}-{case.name}")
        for case in cases
        if version in VERSIONS[case.operation]
    ]


EVERY_VERSION = [
    parameter for version in ("reference", "cpu", "triton", "torch") for parameter in forced(version, CASES)
]
every_version = pytest.mark.parametrize(("case", "setting"), EVERY_VERSION)


def run(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    """Output and gradient of every input, for a fixed output gradient."""
    inputs = [x.to(dtype).requires_grad_() for x in case.inputs]
    output = case.call(*inputs)
    generator = torch.Generator("cpu").manual_seed(1)
    direction = torch.randn(output.shape, generator=generator, dtype=torch.float64, device="cpu").to(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, direction)]


@every_version
def test_version_agrees_with_float64(case: Case, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", "reference")
    expected = run(case, torch.float64)
    monkeypatch.setenv("LONGCAT_KERNELS", setting)
    for index, (exact, result) in enumerate(zip(expected, run(case, torch.float32), strict=True)):
        assert result.dtype == torch.float32
        assert result.shape == exact.shape
        error = torch.linalg.vector_norm(result.double() - exact)
        assert error <= TOLERANCE * torch.linalg.vector_norm(exact) + case.absolute, f"result {index}"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("case", "setting"), forced("cpu", CASES))
def test_few_rows_without_gradient_agree(
    case: Case, setting: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradient many versions use other calls, and others for few rows."""
    monkeypatch.setattr("longcat.kernels.linear.cpu.is_amd", torch.backends.mkldnn.is_available)
    monkeypatch.setenv("LONGCAT_KERNELS", "reference")
    torch.set_num_threads(threads)
    with torch.no_grad():
        exact = case.call(*case.inputs)
        monkeypatch.setenv("LONGCAT_KERNELS", setting)
        result = case.call(*(x.float() for x in case.inputs))
    assert result.shape == exact.shape
    error = torch.linalg.vector_norm(result.double() - exact)
    assert error <= TOLERANCE * torch.linalg.vector_norm(exact) + case.absolute


@every_version
def test_version_gives_the_same_bits_again(case: Case, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", setting)
    first = run(case, torch.float32)
    # Matrix products may round differently with another number of threads; gathers and row sums must not.
    torch.set_num_threads(2 if case.operation in ("expert_gather", "expert_combine", "router") else 1)
    for once, again in zip(first, run(case, torch.float32), strict=True):
        assert torch.equal(once, again)


# Results of the others are always float32.
HALF = [case for case in CASES if case.operation not in ("router", "cross_entropy", "linear_cross_entropy")]


@pytest.mark.parametrize(("case", "setting"), [*forced("cpu", HALF), *forced("triton", HALF)])
def test_version_keeps_half_precision(case: Case, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", "reference")
    expected = run(case, torch.float64)
    monkeypatch.setenv("LONGCAT_KERNELS", setting)
    # Triton's interpreter truncates bfloat16 where the hardware rounds.
    tolerance = 4e-2 if setting.endswith("triton") else 2e-2
    for exact, result in zip(expected, run(case, torch.bfloat16), strict=True):
        assert result.dtype == torch.bfloat16
        error = torch.linalg.vector_norm(result.double() - exact)
        assert error <= tolerance * (torch.linalg.vector_norm(exact) + 1e4 * case.absolute) + 1e-12
