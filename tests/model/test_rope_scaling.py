"""YaRN as of published files, compared with transformers and with an own derivation from periods, as mlx-lm has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.rope import rope_angles_at
from longcat.model.rope_scaling import RopeScaling
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash

# Width, base, factor and original context: LongCat-2.0 and Lite-Sparse, a copy of Lite, and small ones whose ramp lies
# at either end or within one pair.
CASES: dict[str, tuple[int, float, float, int]] = {
    "2.0": (64, 1e6, 120, 8192),
    "lite": (64, 5e6, 10, 32768),
    "flash": (64, 1e7, 4, 131072),
    "short": (8, 100.0, 4, 16),
    "all-slowed": (16, 10.0, 8, 4),
    "none-slowed": (4, 1e4, 2, 1 << 30),
}


def scaling(case: str, kind: str = "deepseek_yarn") -> RopeScaling:
    _, _, factor, original = CASES[case]
    return RopeScaling.model_validate(
        {"type": kind, "factor": factor, "original_max_position_embeddings": original, "beta_fast": 32, "beta_slow": 1}
    )


def by_periods(case: str) -> list[float]:
    """Radians per position of every pair, from positions per radian: slowed ones are `factor` times longer."""
    width, base, factor, original = CASES[case]

    def pair_that_turns(times: float) -> float:
        return width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

    first, last = max(math.floor(pair_that_turns(32)), 0), min(math.ceil(pair_that_turns(1)), width - 1)
    span = last - first if last != first else 0.001
    found = []
    for pair in range(width // 2):
        kept = 1 - min(max((pair - first) / span, 0), 1)
        period, slowed = base ** (2 * pair / width), factor * base ** (2 * pair / width)
        found.append(1 / ((slowed * period) / (slowed * kept + period * (1 - kept))))
    return found


@pytest.mark.parametrize("kind", ["yarn", "deepseek_yarn"])
@pytest.mark.parametrize("case", CASES)
def test_frequencies_equal_those_derived_from_periods(case: str, kind: str) -> None:
    width, base, _, _ = CASES[case]
    angles = rope_angles_at(torch.tensor([1]), width, base, scaling(case, kind))[0]
    assert angles.tolist() == pytest.approx(by_periods(case), rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_frequencies_and_scale_equal_transformers(case: str) -> None:
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    width, base, factor, original = CASES[case]
    config = transformers.LongcatFlashConfig(
        head_dim=width,
        qk_rope_head_dim=width,
        rope_theta=base,
        rope_scaling={"mscale": 1, "mscale_all_dim": 1, "rope_type": "yarn", "factor": factor}
        | {"original_max_position_embeddings": original, "beta_fast": 32, "beta_slow": 1},
    )
    theirs, on_angles = utils.ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    angles = rope_angles_at(torch.tensor([1]), width, base, scaling(case))[0]
    torch.testing.assert_close(angles.float(), theirs, rtol=2e-6, atol=0)
    from transformers.models.longcat_flash.modeling_longcat_flash import yarn_get_mscale

    assert on_angles == 1.0  # so that all of the scale is on the logits
    assert scaling(case).logit_scale == pytest.approx(yarn_get_mscale(factor, 1) ** 2)


@torch.no_grad()
def test_a_text_beyond_the_original_context_changes_nothing_before(build_model: Callable[..., LongcatFlash]) -> None:
    """Frequencies follow from the configuration, and not from the length of a text or a cache."""
    changes: dict[str, Any] = {"rope_scaling": scaling("short"), "rope_theta": 100.0, "qk_rope_head_dim": 8}
    model = build_model(**changes, max_position_embeddings=64)
    ids = torch.randint(97, (1, 60))
    whole = model(ids).logits
    for length in (3, 16, 17, 40):
        torch.testing.assert_close(model(ids[:, :length]).logits, whole[:, :length], rtol=0, atol=2e-5)
        rows = Rows(model, 1, 60)
        torch.testing.assert_close(rows.append(ids[:, :length]).logits, whole[:, :length], rtol=0, atol=2e-5)
        torch.testing.assert_close(rows.append(ids[:, length:]).logits, whole[:, length:], rtol=0, atol=2e-5)
    assert not torch.allclose(build_model(**changes | {"rope_scaling": None})(ids).logits, whole, atol=1e-3)


def test_both_names_of_a_kind_are_one() -> None:
    assert scaling("2.0", "yarn") == scaling("2.0", "deepseek_yarn")
    assert ModelConfig(rope_scaling=scaling("2.0")).to_dict()["rope_scaling"]["rope_type"] == "yarn"
