"""Layers whose norms follow sums: SpanNorm, and PostNorm as its control."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from longcat.model.accounting import count
from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError, ModelError
from longcat.model.growth.files import GrownTensors, GrownWeights
from longcat.model.growth.layers import Growth
from longcat.model.growth.memory import grow_model
from longcat.model.init import initialize
from longcat.model.layout import published_tensors
from longcat.model.rows import Rows
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import InputError
from longcat.pipeline.progress import SilentProgress
from longcat.stages.convert import export_checkpoint
from longcat.stages.train.parallel.activation_checkpointing import checkpoint_activations
from longcat.stages.train.stability.hidden_z_loss import hidden_z_loss
from tests.model.compiled import check_compiled

BuildModel = Callable[..., LongcatFlash]

LAYOUTS: dict[str, dict[str, Any]] = {
    "span": {"moe_layout": "span"},
    "span, no scale": {"moe_layout": "span", "span_scale": "none"},
    "span, 2L": {"moe_layout": "span", "span_scale": "2L"},
    "post": {"moe_layout": "post", "span_scale": "L"},
    "post, no scale": {"moe_layout": "post", "span_scale": "none"},
}
DOCUMENTS = [0, 10, 24, 31, 48]


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture
def model(layout: dict[str, Any], build_model: BuildModel) -> LongcatFlash:
    return build_model(**layout).double()


@pytest.fixture(name="ids_BT")
def token_ids() -> torch.Tensor:
    return torch.randint(4, 97, (2, 24), generator=torch.Generator().manual_seed(1))


class Reference:
    """Logits of one document from published tensors, written from the equations, with loops over heads and experts."""

    def __init__(self, config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
        self.config, self.tensors = config, tensors

    def __call__(self, ids_T: torch.Tensor) -> torch.Tensor:
        x = self.tensors["model.embed_tokens.weight"][ids_T]
        for layer in range(self.config.num_layers):
            x = self.layer(x, f"model.layers.{layer}.", first=layer == 0)
        return x @ self.tensors["lm_head.weight"].T

    def layer(self, x: torch.Tensor, at: str, *, first: bool) -> torch.Tensor:
        entering = self.norm(x, f"{at}embedding_norm") if first else x
        y = self.norm(x + self.attention(entering, f"{at}self_attn.0."), f"{at}post_attention_layernorm.0")
        shortcut = self.mixture(y, f"{at}mlp.")
        kept = x if self.config.moe_layout == "span" else y
        x = self.norm(kept + self.network(y, f"{at}mlps.0."), f"{at}post_feedforward_layernorm.0")
        y = self.norm(x + self.attention(x, f"{at}self_attn.1."), f"{at}post_attention_layernorm.1")
        kept = x if self.config.moe_layout == "span" else y
        return self.norm(kept + self.network(y, f"{at}mlps.1.") + shortcut, f"{at}post_feedforward_layernorm.1")

    def norm(self, x: torch.Tensor, name: str, eps: float | None = None) -> torch.Tensor:
        eps = self.config.rms_norm_eps if eps is None else eps
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * self.tensors[f"{name}.weight"]

    def times(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ self.tensors[f"{name}.weight"].T

    def network(self, x: torch.Tensor, at: str) -> torch.Tensor:
        return self.times(F.silu(self.times(x, f"{at}gate_proj")) * self.times(x, f"{at}up_proj"), f"{at}down_proj")

    def attention(self, x: torch.Tensor, at: str) -> torch.Tensor:
        c = self.config
        q = (
            self.norm(self.times(x, f"{at}q_a_proj"), f"{at}q_a_layernorm", 1e-6)
            * (c.hidden_size / c.q_lora_rank) ** 0.5
        )
        q = self.times(q, f"{at}q_b_proj").unflatten(-1, (c.num_attention_heads, -1))
        latent, k_rope = self.times(x, f"{at}kv_a_proj_with_mqa").split((c.kv_lora_rank, c.qk_rope_head_dim), -1)
        latent = self.norm(latent, f"{at}kv_a_layernorm", 1e-6) * (c.hidden_size / c.kv_lora_rank) ** 0.5
        kv = self.times(latent, f"{at}kv_b_proj").unflatten(-1, (c.num_attention_heads, -1))
        found = []
        for head in range(c.num_attention_heads):
            q_nope, q_rope = q[:, head].split((c.qk_nope_head_dim, c.qk_rope_head_dim), -1)
            k, v = kv[:, head].split((c.qk_nope_head_dim, c.v_head_dim), -1)
            scores = (q_nope @ k.T + self.rotated(q_rope) @ self.rotated(k_rope).T) / c.qk_head_dim**0.5
            future = torch.ones_like(scores).triu(1).bool()
            found.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ v)
        return self.times(torch.cat(found, -1), f"{at}o_proj")

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        pairs = x.shape[-1] // 2
        steps = self.config.rope_theta ** (-torch.arange(pairs, dtype=x.dtype) / pairs)
        angles = torch.arange(x.shape[0], dtype=x.dtype)[:, None] * steps
        turned = torch.view_as_complex(x.unflatten(-1, (pairs, 2)).contiguous()) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.view_as_real(turned).flatten(-2)

    def mixture(self, x: torch.Tensor, at: str) -> torch.Tensor:
        scores = self.times(x, f"{at}router.classifier").softmax(-1)
        chosen = (scores + self.tensors[f"{at}router.e_score_correction_bias"]).topk(self.config.moe_topk).indices
        rows = []
        for token, experts in enumerate(chosen.tolist()):
            row = torch.zeros_like(x[token])
            for expert in experts:
                weight = self.config.routed_scaling_factor * scores[token, expert]
                real = expert < self.config.n_routed_experts
                row = row + weight * (self.network(x[token], f"{at}experts.{expert}.") if real else x[token])
            rows.append(row)
        return torch.stack(rows)


def test_logits_and_gradients_equal_an_independent_reference(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    ids_T = ids_BT[0, :11]
    tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in published_tensors(model)}
    expected = Reference(model.config, tensors)(ids_T)
    found = model(ids_T[None]).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).double()
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if "e_score_correction_bias" in name:
            continue
        prefix, _, rest = name.partition(".experts.")
        if not rest:
            gradient = parameters[name].grad
        else:
            expert, part = rest.split(".")[:2]
            stack = "down_proj" if part == "down_proj" else "gate_up_proj"
            gradient = parameters[f"{prefix}.experts.{stack}"].grad[int(expert)]
            if stack == "gate_up_proj":
                gradient = gradient.chunk(2)[part == "up_proj"]
        wanted = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        torch.testing.assert_close(
            gradient, wanted, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@torch.no_grad()
def test_documents_and_rows_are_independent(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    together = model(ids_BT, torch.tensor(DOCUMENTS)).logits.flatten(0, 1)
    tensors = dict(published_tensors(model))
    for begin, end in pairwise(DOCUMENTS):
        alone = Reference(model.config, tensors)(ids_BT.flatten()[begin:end])
        torch.testing.assert_close(together[begin:end], alone, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[24], [9, 1, 1, 1, 7, 5]])
def test_decoding_equals_the_forward_pass(model: LongcatFlash, ids_BT: torch.Tensor, pieces: list[int]) -> None:
    rows = Rows(model, 2, 24, page_size=8)
    found = [rows.append(piece).logits for piece in ids_BT.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(found, dim=1), model(ids_BT).logits)


@torch.no_grad()
def test_rewound_rows_equal_new_ones(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    rows = Rows(model, 2, 24, page_size=8)
    for piece in ids_BT[:, :16].split([9, 1, 6], dim=1):
        rows.append(piece)
    assert rows.rewind(5) == 5
    text = torch.cat((ids_BT[:, :5], ids_BT.flip(1)[:, 5:]), dim=1)
    torch.testing.assert_close(rows.append(text[:, 5:]).logits, model(text).logits[:, 5:])


@torch.no_grad()
def test_steps_over_pages_equal_the_forward_pass(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    """Two rows in one step, in pieces of different lengths and scattered pages."""
    cache, pages = model.new_pages(12, page_size=4), ([7, 3, 9, 0, 11, 2], [4, 5, 6, 10, 1, 8])
    expected, bounds = model(ids_BT).logits, ([0, 9, 10, 24], [0, 6, 23, 24])
    for place in range(3):
        spans = [(bounds[row][place], bounds[row][place + 1]) for row in (0, 1)]
        pieces = [
            Piece(ids_BT[row, start:end].tolist(), start, pages[row], end - start)
            for row, (start, end) in enumerate(spans)
        ]
        logits_RV = model.step(StepBatch.of(pieces, 4), cache).logits_RV
        wanted = torch.cat([expected[row, start:end] for row, (start, end) in enumerate(spans)])
        torch.testing.assert_close(logits_RV, wanted, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_there_is_no_final_norm_and_prediction_reads_the_last_states(
    layout: dict[str, Any], build_model: BuildModel, ids_BT: torch.Tensor
) -> None:
    model = build_model(**layout, num_nextn_predict_layers=1).double()
    names = [name for name, _ in model.named_parameters()]
    assert "model.norm.weight" not in names
    assert [name for name in names if "embedding_norm" in name] == ["model.layers.0.embedding_norm.weight"]
    _, _, output = model.loss(ids_BT, ids_BT)
    assert output.hidden_BTD is output.residual_BTD
    rows = Rows(model, 2, 24, page_size=8)
    hidden_BTD = rows.append(ids_BT).hidden_BTD
    found = rows.predict(hidden_BTD[:, :-1], ids_BT[:, 1:]).logits
    torch.testing.assert_close(found, model.mtp_forward(output.hidden_BTD[:, :-1], ids_BT[:, 1:]).logits)


@pytest.mark.parametrize(("scale", "factor"), [(None, 1), ("L", 1), ("2L", 2), ("none", None)])
@pytest.mark.parametrize("kind", ["span", "post"])
def test_output_projections_start_smaller(kind: str, scale: Any, factor: int | None, config: ModelConfig) -> None:
    """By the root of the number of blocks, two per layer; nothing else changes, nor does multi-token prediction."""
    changes = {"num_layers": 3, "num_nextn_predict_layers": 1}
    plain, scaled = (
        LongcatFlash(ModelConfig(**(config.model_dump() | changes | more)))
        for more in ({}, {"moe_layout": kind, "span_scale": scale})
    )
    initialize(plain, 4)
    initialize(scaled, 4)
    expected, seen = dict(published_tensors(plain)), set()
    for name, tensor in published_tensors(scaled):
        if name not in expected:
            assert torch.equal(tensor, torch.ones_like(tensor))
            continue
        is_output = name.startswith("model.layers.") and name.endswith(("o_proj.weight", "down_proj.weight"))
        divisor = (6 * factor) ** 0.5 if is_output and factor else 1.0
        torch.testing.assert_close(tensor * divisor, expected[name], rtol=1e-6, atol=0)
        seen |= {name.split(".")[3] for _ in range(is_output)}
    assert seen == {"self_attn", "mlps", "mlp"}


def test_accounting_counts_the_norms(layout: dict[str, Any], config: ModelConfig) -> None:
    """Of a layer four, and one for embeddings; the final norm is missing, all else equals the published layer."""
    published, changed = count(config, 64), count(ModelConfig(**(config.model_dump() | layout)), 64)
    width, latents = config.hidden_size, 2 * config.num_layers * (config.q_lora_rank + config.kv_lora_rank)
    assert changed.parameters["norms"] == 4 * config.num_layers * width + width + latents
    assert changed.total == published.total
    assert changed.flops_per_token_train == published.flops_per_token_train


@torch.no_grad()
def test_a_checkpoint_is_read_back_and_cannot_be_exported(
    model: LongcatFlash, layout: dict[str, Any], ids_BT: torch.Tensor, tmp_path: Path
) -> None:
    save_pretrained(model, tmp_path / "saved")
    again = load_pretrained(tmp_path / "saved", dtype=torch.float64)
    assert again.config == model.config
    assert torch.equal(again(ids_BT).logits, model(ids_BT).logits)
    assert layout.items() <= model.config.to_dict().items()
    with pytest.raises(InputError, match=rf"cannot be exported: moe_layout = '{layout['moe_layout']}' is not"):
        export_checkpoint(
            tmp_path / "saved", tmp_path / "out", layout="published", dtype="stored", progress=SilentProgress()
        )
    assert not (tmp_path / "out").exists()


@torch.no_grad()
@pytest.mark.parametrize("rescale", [False, True])
def test_a_grown_model_has_the_scale_of_its_depth(
    rescale: bool, model: LongcatFlash, ids_BT: torch.Tensor, tmp_path: Path
) -> None:
    """On disk as in memory; the norm of embeddings stays in the first layer."""
    growth = Growth.of(2, 3, "interleave", (0, 1))
    grown = grow_model(model, growth, rescale_depth=rescale)
    scaled = rescale and model.config.span_scale != "none"
    source = dict(published_tensors(model))
    for name, tensor in published_tensors(grown):
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(growth.layers[int(parts[2])])
        is_output = parts[1] == "layers" and parts[-2] in ("o_proj", "down_proj")
        factor = (2 / 4) ** 0.5 if scaled and is_output else 1.0
        torch.testing.assert_close(tensor, source[".".join(parts)] * factor, rtol=1e-14, atol=0)
    assert grown(ids_BT).logits.isfinite().all()
    save_pretrained(model, tmp_path / "small")
    GrownWeights(tmp_path / "small", growth, rescale_depth=rescale).write(tmp_path / "grown")
    on_disk = load_pretrained(tmp_path / "grown", dtype=torch.float64)
    torch.testing.assert_close(on_disk(ids_BT).logits, grown(ids_BT).logits)


def test_moments_follow_the_scale_of_their_parameters(build_model: BuildModel, tmp_path: Path) -> None:
    """The gradient of r w is that of w over r."""
    from safetensors.torch import load_file, save_file

    model = build_model(moe_layout="span")
    save_pretrained(model, tmp_path / "small")
    growth = Growth.of(2, 2)
    names = ("model.layers.1.mlp.experts.down_proj", "model.layers.1.mlps.0.up_proj.weight")
    keys = [f"{name}.{key}" for name in names for key in ("exp_avg", "exp_avg_sq", "step")]
    save_file({key: torch.full((3,), 8.0) for key in keys}, tmp_path / "moments.safetensors")
    depth = GrownWeights(tmp_path / "small", growth, rescale_depth=True).depth
    GrownTensors(tmp_path / "moments.safetensors", growth, depth=depth).write(tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    root = 2**0.5
    for key, expected in zip(keys, [8 * root, 16, 8, 8, 8, 8], strict=True):
        for layer in ("1", "3"):
            grown = found[key.replace("layers.1", f"layers.{layer}")]
            torch.testing.assert_close(grown, torch.full((3,), float(expected)))


def test_a_compiled_model_gives_the_same(
    model: LongcatFlash, ids_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_compiled(model, ids_BT, monkeypatch)


@pytest.mark.parametrize("what", ["selective", "block"])
def test_recomputation_changes_no_gradient(what: Any, model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    found = []
    for again in (False, True):
        if again:
            checkpoint_activations(model, what)
        model.zero_grad()
        _, _, output = model.loss(ids_BT, ids_BT)
        hidden_z_loss(output.residual_BTD).backward()
        found.append([parameter.grad for parameter in model.model.layers.parameters()])
    for before, after in zip(*found, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"span_scale": "L"}, "span_scale = 'L' needs moe_layout = 'span' or 'post', this is 'shortcut'"),
        ({"span_scale": "none", "moe_layout": "interleaved"}, "this is 'interleaved'"),
        ({"span_scale": "3L", "moe_layout": "span"}, "span_scale = '3L': "),
        ({"span_scale": 1, "moe_layout": "post"}, "span_scale = 1: "),
        ({"moe_layout": "pre"}, "moe_layout = 'pre': "),
    ],
)
def test_contradictory_options_are_named(changes: dict[str, Any], message: str, config: ModelConfig) -> None:
    with pytest.raises(ModelConfigError, match=message):
        ModelConfig.from_dict(config.to_dict() | changes)


def test_a_published_checkpoint_has_not_the_tensors(build_model: BuildModel, tmp_path: Path) -> None:
    save_pretrained(build_model(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"moe_topk"', '"moe_layout": "span", "moe_topk"'))
    with pytest.raises((ModelError, ModelConfigError), match="embedding_norm"):
        load_pretrained(tmp_path)
