"""Gated delta networks compared with plain loops in float64, states in float32, initial values, options and serving."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from longcat.model.accounting import count
from longcat.model.attention.base import SequenceContext
from longcat.model.attention.delta import RULES, GatedDelta
from longcat.model.attention.pages import SlotState
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError
from longcat.model.init import initialize
from longcat.model.matrices import matrices_of
from longcat.model.parameter_kinds import parameter_kind
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash
from longcat.model.width import widened
from longcat.stages.train.optim.kinds import KindsOptions, weight_decay

OPTIONS: dict[str, dict[str, Any]] = {
    "gdn": {"rule": "gdn", "head_dim": 5, "value_head_dim": 10},
    "kda": {"rule": "kda", "head_dim": 5},
    "kda, bounded": {"rule": "kda", "head_dim": 5, "lower_bound": -5.0},
    "gdn2": {"rule": "gdn2", "head_dim": 5, "value_head_dim": 4},
    "fg2": {"rule": "fg2", "head_dim": 5},
    "fg2_plus": {"rule": "fg2_plus", "head_dim": 5, "value_head_dim": 4},
}
EVERY_RULE = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def with_delta(config: ModelConfig, options: dict[str, Any], **changes: Any) -> ModelConfig:
    return ModelConfig(**{**config.model_dump(), "attention": {"kind": "delta", **options}, **changes})


def built(config: ModelConfig, options: dict[str, Any], **changes: Any) -> LongcatFlash:
    model = LongcatFlash(with_delta(config, options, **changes))
    initialize(model, 3, {"hidden": 0.2, "router": 0.2, "embedding": 1.0, "unembedding": 0.3})
    return model


def delta_of(model: LongcatFlash) -> GatedDelta:
    return next(module for module in model.modules() if isinstance(module, GatedDelta))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def silu(x: float) -> float:
    return x * sigmoid(x)


class Loops:
    """One module on one document, number by number."""

    def __init__(self, module: GatedDelta, options: dict[str, Any], inputs_TD: torch.Tensor) -> None:
        self.module, self.options, self.x = module, options, inputs_TD.tolist()
        self.rule = options["rule"]

    def rows(self, name: str, token: int) -> list[float]:
        module = self.module.get_submodule(name)
        names = ["down", "up"] if hasattr(module, "up") else [""]
        value = self.x[token]
        for part in names:
            weight = module.get_submodule(part).weight.tolist()
            value = [sum(w * v for w, v in zip(row, value, strict=True)) for row in weight]
        return value

    def convolved(self, name: str, first: int, token: int) -> list[float]:
        weight = self.module.conv.weight.tolist()
        earlier = {back: self.rows(name, token - back) for back in range(4) if token >= back}
        channels = len(earlier[0])
        return [
            silu(sum(weight[first + place][0][3 - back] * values[place] for back, values in earlier.items()))
            for place in range(channels)
        ]

    def decays(self, token: int, head: int, keys: int) -> list[float]:
        f, bias = self.rows("f_proj", token), self.module.dt_bias.tolist()
        rate = math.exp(self.module.A_log.tolist()[head])
        places = [head] * keys if self.rule == "gdn" else range(head * keys, (head + 1) * keys)
        bound = self.options.get("lower_bound")
        if bound is not None:
            return [math.exp(bound * sigmoid(rate * (f[place] + bias[place]))) for place in places]
        return [math.exp(-rate * math.log1p(math.exp(f[place] + bias[place]))) for place in places]

    def gates(self, token: int, head: int, keys: int, values: int) -> tuple[list[float], list[float]]:
        b = [sigmoid(value) for value in self.rows("b_proj", token)]
        if self.rule in ("gdn", "kda"):
            return [b[head]] * keys, [b[head]] * values
        erase = b[head * keys : (head + 1) * keys]
        if self.rule == "fg2":
            return erase, erase
        return erase, [sigmoid(c) for c in self.rows("c_proj", token)[head * values : (head + 1) * values]]

    def outputs(self) -> list[list[float]]:
        module = self.module
        heads, keys, values = module.heads, module.key_width, module.value_width
        states = [[[0.0] * values for _ in range(keys)] for _ in range(heads)]
        found = []
        for token in range(len(self.x)):
            joined: list[float] = []
            for head in range(heads):
                joined += self.head(states[head], token, head, keys, values)
            weight = module.o_proj.weight.tolist()
            found.append([sum(w * v for w, v in zip(row, joined, strict=True)) for row in weight])
        return found

    def head(self, state: list[list[float]], token: int, head: int, keys: int, values: int) -> list[float]:
        heads = self.module.heads
        own = slice(head * keys, (head + 1) * keys)
        q, k = self.convolved("q_proj", 0, token)[own], self.convolved("k_proj", heads * keys, token)[own]
        v = self.convolved("v_proj", 2 * heads * keys, token)[head * values : (head + 1) * values]
        q, k = ([one / math.sqrt(sum(two * two for two in x) + 1e-6) for one in x] for x in (q, k))
        erase, write = self.gates(token, head, keys, values)
        decay = self.decays(token, head, keys)
        if self.rule in ("fg2", "fg2_plus"):
            k = [math.sqrt(gate) * one for gate, one in zip(erase, k, strict=True)]
            v = [math.sqrt(gate) * one for gate, one in zip(write, v, strict=True)]
            erase, write = [1.0] * keys, [1.0] * values
        for i in range(keys):
            state[i] = [decay[i] * value for value in state[i]]
        for j in range(values):
            read = sum(erase[i] * k[i] * state[i][j] for i in range(keys))
            for i in range(keys):
                state[i][j] += k[i] * (write[j] * v[j] - read)
        o = [sum(q[i] * state[i][j] for i in range(keys)) / math.sqrt(keys) for j in range(values)]
        root = math.sqrt(sum(value * value for value in o) / values + self.module.o_norm.eps)
        gate = self.rows("g_proj", token)[head * values : (head + 1) * values]
        weight = self.module.o_norm.weight.tolist()
        return [weight[j] * o[j] / root * sigmoid(gate[j]) for j in range(values)]


@torch.no_grad()
@EVERY_RULE
def test_equations(options: dict[str, Any], config: ModelConfig) -> None:
    """Two documents in a row, each as if it were alone."""
    module = delta_of(built(config, options).double())
    module.o_norm.weight.uniform_(0.5, 2)
    x_1TD = torch.randn(1, 12, config.hidden_size, dtype=torch.float64)
    model = LongcatFlash(with_delta(config, options))
    where = model.context(torch.zeros(1, 12, dtype=torch.int64), torch.tensor([0, 7, 12]))
    found = module(x_1TD, where).y_BTD[0]
    expected = [row for part in (x_1TD[0, :7], x_1TD[0, 7:]) for row in Loops(module, options, part).outputs()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_every_rule_is_tested() -> None:
    assert {options["rule"] for options in OPTIONS.values()} == set(RULES)


@torch.no_grad()
def test_fg2_with_one_gate_per_head_is_kda(config: ModelConfig) -> None:
    """The projection of the gate repeats the row of a head for all its channels."""
    kda, fg2 = (delta_of(built(config, OPTIONS[rule]).double()) for rule in ("kda", "fg2"))
    kda.b_proj.weight.mul_(3)
    fg2.load_state_dict({name: x for name, x in kda.state_dict().items() if "b_proj" not in name}, strict=False)
    heads, keys = fg2.heads, fg2.key_width
    fg2.b_proj.down.weight[:heads] = kda.b_proj.weight
    fg2.b_proj.up.weight.zero_()
    for row in range(heads * keys):
        fg2.b_proj.up.weight[row, row // keys] = 1
    x_BTD, where = torch.randn(2, 80, config.hidden_size, dtype=torch.float64), SequenceContext(torch.arange(80))
    torch.testing.assert_close(fg2(x_BTD, where).y_BTD, kda(x_BTD, where).y_BTD, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@EVERY_RULE
def test_steps_in_float32_equal_the_forward_pass(options: dict[str, Any], config: ModelConfig) -> None:
    """Relative to the largest logit: pieces and single tokens of two rows, over several chunks."""
    model = built(config, options)
    ids_BT = torch.randint(4, config.vocab_size, (2, 150))
    whole = model(ids_BT).logits
    rows = Rows(model, 2, 150)
    found = [rows.append(part).logits for part in ids_BT.split([70, 1, 1, 1, 3, 40, 34], dim=1)]
    assert (torch.cat(found, dim=1) - whole).abs().max() < 2e-6 * whole.abs().max()


@torch.no_grad()
def test_the_state_of_a_model_in_half_precision_is_float32(config: ModelConfig) -> None:
    model = built(config, OPTIONS["kda"]).bfloat16()
    cache = model.new_pages(4, slots=2)
    (state, *_) = cache.layer_states
    assert isinstance(state, SlotState)
    assert state.values.dtype == torch.float32
    sizes = count(model.config, 64)
    assert cache.bytes_per_slot == sizes.state_bytes == count(model.config, 1 << 17).state_bytes
    assert sizes.kv_bytes_per_token == 0
    rows = Rows(model, 1, 20)
    ids_BT = torch.randint(4, config.vocab_size, (1, 20))
    found = torch.cat([rows.append(part).logits for part in ids_BT.split(4, dim=1)], dim=1)
    torch.testing.assert_close(found, model(ids_BT).logits, rtol=0.05, atol=0.05)


def test_initial_values_and_kinds(config: ModelConfig) -> None:
    config = with_delta(config, OPTIONS["fg2_plus"], num_attention_heads=12)
    model = LongcatFlash(config)
    initialize(model, 0)
    module = delta_of(model)
    steps = torch.nn.functional.softplus(module.dt_bias)
    assert 0.9e-3 < steps.min() < 3e-3
    assert 3e-2 < steps.max() < 0.101
    rates = module.A_log.exp()
    assert 1 <= rates.min() < 5
    assert 10 < rates.max() <= 16
    assert module.conv.weight.abs().max() <= 0.5
    assert module.conv.weight.std() > 0.25
    assert (module.o_norm.weight == 1).all()
    for name, parameter in module.named_parameters():
        key = f"model.layers.0.self_attn.0.{name}"
        kind = parameter_kind(config, key, parameter.dim())
        assert kind == ("vector" if name in ("A_log", "dt_bias", "conv.weight", "o_norm.weight") else "hidden")
        assert (matrices_of(config, key, parameter.shape) is None) == (kind == "vector")
        if name in ("A_log", "dt_bias"):
            assert weight_decay(KindsOptions(), kind, parameter.dim(), 0.1) == 0


def test_a_wider_model_has_more_heads_of_the_same_width(config: ModelConfig) -> None:
    small = with_delta(config, OPTIONS["gdn"])
    narrow, wide = (delta_of(LongcatFlash(one)) for one in (small, widened(small, 2)))
    assert (wide.heads, wide.key_width, wide.value_width) == (2 * narrow.heads, narrow.key_width, narrow.value_width)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "mamba"}, "rule = 'mamba': Input should be 'gdn', 'kda', 'gdn2', 'fg2' or 'fg2_plus'"),
        ({"rule": "fg2", "head_dim": 8, "value_head_dim": 4}, "value_head_dim = 4 must equal head_dim = 8"),
        ({"head_dim": 0}, "head_dim = 0: Input should be greater than or equal to 1"),
        ({"lower_bound": 0.0}, "lower_bound = 0.0: Input should be less than 0"),
        ({"conv_size": 3}, "conv_size = 3: Extra inputs are not permitted"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str, config: ModelConfig) -> None:
    with pytest.raises(ModelConfigError, match=f"attention .*delta: .*{message}"):
        ModelConfig.from_dict({**config.to_dict(), "attention": {"kind": "delta", **options}})


def test_defaults_are_not_written(config: ModelConfig) -> None:
    made = ModelConfig.from_dict({**config.to_dict(), "attention": "delta"})
    assert made.to_dict()["attention"] == "delta"
    assert "attention" not in config.to_dict()
