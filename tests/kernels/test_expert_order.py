"""Order of rows: every version gives the same integers as the reference, and padding rows are never read."""

import pytest
import torch

from longcat.kernels.expert_mixture import expert_mixture
from longcat.kernels.expert_order import VERSIONS, reference

CHOICES = {
    "mixed": [[2, 5, 0], [4, 3, 5], [0, 4, 2], [5, 4, 3]],
    "dense": [[1, 0], [2, 1], [0, 2]],
    "idle": [[3, 4], [5, 3]],
    "one expert": [[1]] * 5,
}


@pytest.fixture(params=["few slots", "sorted slots"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both code paths of the Triton version, which depend on the number of slots."""
    monkeypatch.setattr("longcat.kernels.expert_order.triton.FEW_SLOTS", 4096 if request.param == "few slots" else 0)


@pytest.mark.parametrize("num_experts", [1, 3, 6])
@pytest.mark.parametrize("choice", CHOICES)
def test_versions_give_the_same_integers(way: None, choice: str, num_experts: int) -> None:
    check(torch.tensor(CHOICES[choice]), num_experts)


def test_many_slots_and_experts_take_several_programs(way: None) -> None:
    torch.manual_seed(0)
    check(torch.randint(0, 400, (130, 3)), 300)


def check(experts_TK: torch.Tensor, num_experts: int) -> None:
    expected = reference.expert_order(experts_TK, num_experts)
    order = VERSIONS["triton"](experts_TK, num_experts).exact()
    bag_R, bag_starts_T1 = order.bags()
    order = order._replace(bag_R=bag_R, bag_starts_T1=bag_starts_T1)
    for field, ours, theirs in zip(expected._fields, order, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), field


@pytest.mark.parametrize("version", VERSIONS)
def test_no_tokens_have_no_rows(version: str) -> None:
    order = VERSIONS[version](torch.empty(0, 4, dtype=torch.int64), 3)
    assert order.ends_N.tolist() == [0, 0, 0]
    assert [bag.tolist() for bag in order.bags()] == [[], [0]]
    assert order.slot_R.numel() == 0
    assert order.row_TK.shape == (0, 4)


@pytest.mark.parametrize("choice", CHOICES)
def test_padding_is_cut_off_where_the_rows_are_counted(way: None, choice: str) -> None:
    experts_TK = torch.tensor(CHOICES[choice])
    padded = VERSIONS["triton"](experts_TK, 3)
    assert padded.slot_R.shape == padded.token_R.shape == (experts_TK.numel(),)
    assert sorted(padded.slot_R.tolist()) == list(range(experts_TK.numel()))
    assert torch.equal(padded.token_R, padded.slot_R // experts_TK.shape[1])
    rows = int(padded.ends_N[-1])
    assert padded.cut(rows).slot_R.shape == padded.exact().token_R.shape == padded.bags()[0].shape == (rows,)


SETTINGS = ("triton", *(f"{mode},expert_order=triton" for mode in ("cpu", "reference", "torch")))
MIXED = [f"triton,{operation}=reference" for operation in ("expert_gather", "grouped_mlp", "expert_combine")]
MIXED += [f"triton,{operation}=cpu" for operation in ("expert_gather", "grouped_mlp", "expert_combine")]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("setting", [*SETTINGS, *MIXED])
def test_the_experts_never_read_padding(setting: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.empty` returns NaN in these tests, so reading a padding row is visible."""
    torch.manual_seed(0)
    experts_TK = torch.tensor(CHOICES[choice])
    tokens, topk = experts_TK.shape
    inputs = [torch.randn(*shape) for shape in ((tokens, 8), (tokens, topk), (3, 24, 8), (3, 8, 12))]
    direction = torch.randn(tokens, 8, dtype=torch.float64)
    results = []
    for forced, dtype in (("reference", torch.float64), (setting, torch.float32)):
        monkeypatch.setenv("LONGCAT_KERNELS", forced)
        x_TD, weights_TK, gate_up, down = own = [x.to(dtype).requires_grad_() for x in inputs]
        y_TD = expert_mixture(x_TD, weights_TK, experts_TK, gate_up, down)
        results.append([y_TD.detach(), *torch.autograd.grad(y_TD, own, direction.to(dtype))])
    for exact, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)
