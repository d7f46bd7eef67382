"""Formulas of the report's tables, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable

HOUR = 3600.0  # seconds
MILLION = 1e6


def seconds_per_token(layers: int, layer_seconds: Iterable[float], tokens_per_step: float) -> float:
    """Time per output token (TPOT, table 7): a step passes all layers and gives a sequence `tokens_per_step` tokens.

    `layer_seconds` are the parts of a layer that nothing hides.
    """
    return layers * sum(layer_seconds) / tokens_per_step


def dollars_per_million(tokens_per_second: float, dollars_per_hour: float) -> float:
    """Price of a million tokens of a device (tables 6 and 7)."""
    return dollars_per_hour / HOUR / tokens_per_second * MILLION


def hidden_share(exposed_in_turn: float, exposed: float) -> float:
    """Share of the exchange with experts that is hidden, from its shares of the step, in turn and overlapped.

    The work beside the exchange is the same in both: an exposed share x is x / (1 - x) of it.
    """
    return 1 - exposed / (1 - exposed) / (exposed_in_turn / (1 - exposed_in_turn))
