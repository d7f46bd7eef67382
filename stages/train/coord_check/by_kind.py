"""The table of transfer as a model has it: initial deviations and learning rates by kind, and their exponents in width.

The first step of AdamW moves every weight w by

    -learning rate * (sign of its gradient + weight decay * w)

and that of Muon has its orthogonalised momentum in place of the sign, so the learning rate of a parameter can be read
from what the step did, whatever its group says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from longcat.model.parameter_kinds import KINDS, parameter_kind
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.optim.kinds import HiddenUpdate, factors

# Largest difference of an exponent from the table: the deviation of a few hundred weights is known to 4 %.
TOLERANCE = 0.1

QUANTITIES = ("initial_std", "learning_rate")

# Kind, initial deviation and learning rate by name of a parameter.
Found = dict[str, dict[str, Any]]


class KindProbe:
    """Initial deviation and first learning rate of every parameter of a model, by name."""

    def __init__(self, model: LongcatFlash) -> None:
        """Read the deviations of `model` before its first step."""
        self.model = model
        self.before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.std = {name: value.double().square().mean().sqrt().item() for name, value in self.before.items()}
        self.rates: dict[str, float] = {}

    @torch.no_grad()
    def read_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Read the learning rates from what the first step changed; parameters without a gradient are left out."""
        groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self.model.named_parameters():
            if parameter not in optimizer.state:
                continue
            direction = _direction(parameter, groups[parameter], optimizer.state[parameter])
            before, moved = self.before[name].double(), direction != 0
            decayed = groups[parameter]["decay"] * before
            if groups[parameter]["cautious"]:
                decayed *= direction * before >= 0
            rates = (before - parameter.double()) / (direction + decayed)
            if moved.any():
                self.rates[name] = rates[moved].median().item()

    def found(self) -> Found:
        """`kind`, `initial_std` and `learning_rate` by name; the latter 0 without a gradient."""
        return {
            name: {
                "kind": parameter_kind(self.model.config, name, parameter.ndim),
                "initial_std": self.std[name],
                "learning_rate": self.rates.get(name, 0.0),
            }
            for name, parameter in self.model.named_parameters()
        }


def _direction(parameter: nn.Parameter, group: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Update of the first step at learning rate 1, without decay."""
    if "momentum" in group:
        update: torch.Tensor
        (update,) = group["update"]([state["momentum"]], [group["matrices"][parameter]])
        return update.double()
    if "rows" in state:  # a table by row, of which the others did not move
        signs_CW = state["exp_avg"].sign().double()
        return torch.zeros_like(parameter, dtype=torch.float64).index_copy_(0, state["rows"], signs_CW)
    return state["exp_avg"].sign().double()


def exponents(widths: Sequence[int], found: Sequence[Found], update: HiddenUpdate) -> list[dict[str, Any]]:
    """Exponents in the width of what was `found` at every width, and those of the table, one row per kind.

    An exponent is the mean over the parameters of a kind whose values are above zero; None without one.
    """
    logarithms = [math.log(width) for width in widths]
    rule = factors(math.e, update)
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        row: dict[str, Any] = {"kind": kind}
        own = [name for name, values in found[0].items() if values["kind"] == kind]
        for quantity, factor in (("initial_std", rule[kind].std), ("learning_rate", rule[kind].learning_rate)):
            if quantity == "initial_std" and kind == "vector":
                continue
            values = [[run[name][quantity] for run in found] for name in own]
            fits = [slope(logarithms, [math.log(value) for value in each]) for each in values if min(each) > 0]
            row[quantity] = math.fsum(fits) / len(fits) if fits else None
            row[f"{quantity}_of_table"] = math.log(factor)
        rows.append(row)
    return rows


def follows_table(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every exponent is within `TOLERANCE` of the table."""
    pairs = [(row.get(key), row.get(f"{key}_of_table")) for row in rows for key in QUANTITIES]
    return all(abs(found - expected) <= TOLERANCE for found, expected in pairs if found is not None)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least-squares slope."""
    x_mean, y_mean = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    covariance = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / math.fsum((x - x_mean) ** 2 for x in xs)
