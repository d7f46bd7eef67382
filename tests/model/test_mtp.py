"""Multi-token prediction: the published computation and keys, document ends, and its place in the cache."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError, ModelError
from longcat.model.growth.layers import Growth
from longcat.model.growth.memory import grow_model, grow_tensors
from longcat.model.layout import published_tensors
from longcat.model.mtp import targets_after_next
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]

LAYER = "model.mtp.layers.0"
SHAPES = {
    "model.mtp.embed_tokens.weight": (97, 32),
    "model.mtp.norm.weight": (32,),
    f"{LAYER}.enorm.m.weight": (32,),
    f"{LAYER}.hnorm.m.weight": (32,),
    f"{LAYER}.eh_proj.weight": (32, 64),
    f"{LAYER}.input_layernorm.weight": (32,),
    f"{LAYER}.post_attention_layernorm.weight": (32,),
    f"{LAYER}.self_attn.q_a_proj.weight": (20, 32),
    f"{LAYER}.self_attn.q_a_layernorm.weight": (20,),
    f"{LAYER}.self_attn.q_b_proj.weight": (48, 20),
    f"{LAYER}.self_attn.kv_a_proj_with_mqa.weight": (22, 32),
    f"{LAYER}.self_attn.kv_a_layernorm.weight": (16,),
    f"{LAYER}.self_attn.kv_b_proj.weight": (54, 16),
    f"{LAYER}.self_attn.o_proj.weight": (32, 24),
    f"{LAYER}.transformer_layer.mlp.gate_proj.weight": (40, 32),
    f"{LAYER}.transformer_layer.mlp.up_proj.weight": (40, 32),
    f"{LAYER}.transformer_layer.mlp.down_proj.weight": (32, 40),
}


@pytest.fixture
def build(build_model: BuildModel) -> BuildModel:
    return lambda **changes: build_model(**({"num_nextn_predict_layers": 1} | changes))


def by_hand(w: dict[str, torch.Tensor], e_BTD: torch.Tensor, h_BTD: torch.Tensor) -> torch.Tensor:
    """The layer computed from its published tensors in float64, one formula per line."""

    def norm(x: torch.Tensor, name: str, eps: float = 1e-5) -> torch.Tensor:
        return w[f"{name}.weight"] * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{LAYER}.{name}.weight"].T

    def rotate(x_BTHR: torch.Tensor) -> torch.Tensor:
        angles_TP = torch.outer(torch.arange(x_BTHR.shape[1]).double(), 1e7 ** (-torch.arange(0, 6, 2).double() / 6))
        turn_T1P = torch.polar(torch.ones_like(angles_TP), angles_TP).unsqueeze(1)
        pairs = torch.view_as_complex(x_BTHR.unflatten(-1, (3, 2)).contiguous())
        return torch.view_as_real(pairs * turn_T1P).flatten(-2)

    z = linear(torch.cat((norm(e_BTD, f"{LAYER}.enorm.m"), norm(h_BTD, f"{LAYER}.hnorm.m")), -1), "eh_proj")
    x = norm(z, f"{LAYER}.input_layernorm")
    c_q = (32 / 20) ** 0.5 * norm(linear(x, "self_attn.q_a_proj"), f"{LAYER}.self_attn.q_a_layernorm", 1e-6)
    c_kv, k_rope = linear(x, "self_attn.kv_a_proj_with_mqa").split((16, 6), -1)
    c_kv = (32 / 16) ** 0.5 * norm(c_kv, f"{LAYER}.self_attn.kv_a_layernorm", 1e-6)
    q_nope, q_rope = linear(c_q, "self_attn.q_b_proj").unflatten(-1, (3, 16)).split((10, 6), -1)
    k_nope, v = linear(c_kv, "self_attn.kv_b_proj").unflatten(-1, (3, 18)).split((10, 8), -1)
    scores = torch.einsum("bthn,bshn->bhts", q_nope, k_nope)
    scores += torch.einsum("bthr,bsr->bhts", rotate(q_rope), rotate(k_rope.unsqueeze(2)).squeeze(2))
    visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    p = (scores * 16**-0.5).masked_fill(~visible, float("-inf")).softmax(-1)
    r = z + linear(torch.einsum("bhts,bshv->bthv", p, v).flatten(2), "self_attn.o_proj")
    y = norm(r, f"{LAYER}.post_attention_layernorm")
    gated = F.silu(linear(y, "transformer_layer.mlp.gate_proj")) * linear(y, "transformer_layer.mlp.up_proj")
    return norm(r + linear(gated, "transformer_layer.mlp.down_proj"), "model.mtp.norm")


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_it_computes_what_is_published(shared: bool, build: BuildModel) -> None:
    model = build(mtp_share_embeddings=shared)
    input_ids_BT, next_ids_BT = torch.randint(0, 97, (2, 2, 11))
    hidden_BTD = model(input_ids_BT).hidden_BTD
    output = model.mtp_forward(hidden_BTD, next_ids_BT)
    w = {key: tensor.double() for key, tensor in published_tensors(model)}
    table = w["model.embed_tokens.weight" if shared else "model.mtp.embed_tokens.weight"]
    expected_BTD = by_hand(w, table[next_ids_BT], hidden_BTD.double())
    torch.testing.assert_close(output.hidden_BTD.double(), expected_BTD, rtol=1e-4, atol=1e-5)
    expected = expected_BTD @ w["lm_head.weight"].T
    assert torch.linalg.vector_norm(output.logits - expected) < 1e-5 * torch.linalg.vector_norm(expected)


@torch.no_grad()
def test_hidden_states_are_taken_after_the_final_norm(build: BuildModel) -> None:
    model = build()
    output = model(torch.arange(9).view(1, 9))
    assert torch.equal(F.linear(output.hidden_BTD, model.output_weight), output.logits)


def test_it_is_kept_without_being_used(build: BuildModel, build_model: BuildModel) -> None:
    with_mtp, without = build(), build_model()
    without.load_state_dict({key: tensor for key, tensor in with_mtp.state_dict().items() if ".mtp." not in key})
    input_ids_BT = torch.arange(12).view(2, 6)
    assert torch.equal(with_mtp(input_ids_BT).logits, without(input_ids_BT).logits)
    loss_sum, _, _ = with_mtp.loss(input_ids_BT, input_ids_BT)
    loss_sum.backward()
    assert all((parameter.grad is None) == (".mtp." in name) for name, parameter in with_mtp.named_parameters())
    with pytest.raises(ModelError, match="needs num_nextn_predict_layers = 1"):
        without.mtp_forward(torch.zeros(1, 1, 32), torch.zeros(1, 1, dtype=torch.int64))


@pytest.mark.parametrize("shared", [False, True])
def test_its_tensors_have_the_published_names(shared: bool, build: BuildModel, tmp_path: Path) -> None:
    model = build(mtp_share_embeddings=shared)
    shapes = {key: tuple(tensor.shape) for key, tensor in published_tensors(model) if ".mtp." in key}
    own_table = {} if shared else {"model.mtp.embed_tokens.weight": (97, 32)}
    assert shapes == {key: shape for key, shape in SHAPES.items() if "embed_tokens" not in key} | own_table
    assert not any(tensor.isnan().any() for tensor in model.state_dict().values())
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.config == model.config
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_growing_copies_it(build: BuildModel) -> None:
    model = build()
    grown = grow_model(model, Growth.of(2, 2))
    assert grown.model.mtp is not None
    assert grown.model.mtp.layers[0].self_attn.slot == 8
    source, target = model.state_dict(), grown.state_dict()
    for key in SHAPES:
        assert torch.equal(source[key], target[key])
        assert source[key].data_ptr() != target[key].data_ptr()
    moments = grow_tensors({f"{key}.exp_avg": source[key] for key in SHAPES}, Growth.of(2, 2))
    assert moments.keys() == {f"{key}.exp_avg" for key in SHAPES}


def test_targets_stay_within_their_document() -> None:
    targets_BT = torch.arange(20, 36).view(2, 8)
    assert targets_after_next(targets_BT).tolist() == [[*range(21, 28), -100], [*range(29, 36), -100]]
    documents = targets_after_next(targets_BT, torch.tensor([0, 1, 4, 8, 9, 9, 14, 16]))
    x = -100
    assert documents.tolist() == [[x, 22, x, x, 25, 26, 27, x], [x, 30, 31, 32, x, x, 35, x]]
    masked_BT = targets_BT.masked_fill(targets_BT == 23, x)
    assert targets_after_next(masked_BT)[0].tolist() == [21, 22, x, 24, 25, 26, 27, x]


def test_its_loss_excludes_targets_beyond_the_document(build: BuildModel) -> None:
    """The mean over documents in one row equals that of single documents, minus two targets per inner end."""
    model = build().double()
    row_T = torch.randint(0, 97, (14,))
    bounds = [0, 5, 13]
    input_ids_BT, targets_BT = row_T[None, :-1], row_T[None, 1:]
    cu_seqlens = torch.tensor(bounds)
    hidden_BTD = model(input_ids_BT, cu_seqlens).hidden_BTD
    loss_sum, counted = model.mtp_loss(hidden_BTD, input_ids_BT, targets_BT, cu_seqlens)
    assert counted == 3 + 7
    expected = torch.zeros((), dtype=torch.float64)
    for start, end in ((0, 5), (5, 14)):
        document_BT = row_T[None, start:end]
        hidden_BTD = model(document_BT[:, :-2]).hidden_BTD
        # Rotary positions are relative, so a single document starts at 0.
        logits = model.mtp_forward(hidden_BTD, document_BT[:, 1:-1]).logits
        expected += F.cross_entropy(logits[0], document_BT[0, 2:], reduction="sum")
    torch.testing.assert_close(loss_sum, expected)


@torch.no_grad()
@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_it_decodes_with_a_cache_of_its_own_length(
    kernels: str, build: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction is one token behind the model, and truncation drops positions that depend on removed tokens."""
    monkeypatch.setenv("LONGCAT_KERNELS", kernels)
    model = build().double()
    ids_BT = torch.randint(0, 97, (2, 13))
    whole = model(ids_BT).hidden_BTD
    expected = model.mtp_forward(whole[:, :-1], ids_BT[:, 1:]).logits
    rows = Rows(model, 2, 13)
    hidden_BTD = rows.append(ids_BT[:, :8]).hidden_BTD
    assert (rows.length, rows.mtp_length) == (8, 0)
    first = rows.predict(hidden_BTD, ids_BT[:, 1:9]).logits
    wrong_B1 = ids_BT[:, 8:9] + 1
    rows.predict(rows.append(wrong_B1 % 97).hidden_BTD, wrong_B1 % 97)
    assert (rows.length, rows.mtp_length) == (9, 9)
    rows.rewind(8)
    assert (rows.length, rows.mtp_length) == (8, 7)
    again = rows.predict(hidden_BTD[:, 7:], ids_BT[:, 8:9]).logits
    rest = [rows.predict(rows.append(ids_BT[:, t : t + 1]).hidden_BTD, ids_BT[:, t + 1 : t + 2]) for t in range(8, 12)]
    assert (rows.length, rows.mtp_length) == (12, 12)
    pieces = torch.cat([first[:, :7], again, *(output.logits for output in rest)], dim=1)
    torch.testing.assert_close(pieces, expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(ModelError, match="the rows hold 12 of at most 13 positions, 2 more do not fit"):
        rows.predict(whole[:, :2], ids_BT[:, :2])


@torch.no_grad()
def test_it_can_predict_from_its_own_prediction(build: BuildModel) -> None:
    """A second draft token uses the first one and the layer's own hidden state; the rows stay valid."""
    model = build()
    ids_BT = torch.randint(0, 97, (1, 6))
    rows = Rows(model, 1, 8)
    draft = rows.predict(rows.append(ids_BT[:, :5]).hidden_BTD, ids_BT[:, 1:])
    token_B1 = draft.logits[:, -1:].argmax(-1)
    second = rows.predict(draft.hidden_BTD[:, -1:], token_B1)
    assert (rows.length, rows.mtp_length) == (5, 6)
    hidden_BTD = torch.cat((model(ids_BT[:, :5]).hidden_BTD, draft.hidden_BTD[:, -1:]), dim=1)
    whole = model.mtp_forward(hidden_BTD, torch.cat((ids_BT[:, 1:], token_B1), dim=1))
    torch.testing.assert_close(second.logits, whole.logits[:, -1:], rtol=1e-4, atol=1e-4)


def test_its_keys_are_read_and_written_only_if_they_have_an_effect(config: ModelConfig) -> None:
    assert not {"num_nextn_predict_layers", "mtp_share_embeddings"} & config.to_dict().keys()
    one = ModelConfig(**(config.model_dump() | {"num_nextn_predict_layers": 1}))
    assert one.to_dict() == config.to_dict() | {"num_nextn_predict_layers": 1}
    assert ModelConfig.from_dict(one.to_dict() | {"nextn_use_scmoe": False}) == one
    for change, message in (
        ({"num_nextn_predict_layers": 2}, "num_nextn_predict_layers = 2: "),
        ({"mtp_share_embeddings": True}, "mtp_share_embeddings = True needs num_nextn_predict_layers = 1"),
        ({"nextn_use_scmoe": True}, "nextn_use_scmoe = True is not supported, expected False"),
    ):
        with pytest.raises(ModelConfigError, match=message):
            ModelConfig.from_dict(config.to_dict() | change)
