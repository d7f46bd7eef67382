"""Printing of the importance of attention modules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from longcat.cli.console import out
from longcat.cli.tables import table

if TYPE_CHECKING:
    from longcat.stages.evaluate.importance import Importance


def print_importance(found: Importance) -> None:
    """Print the change of the loss by slot, the least important first, and the pattern."""
    console, rows = out(), table(">slot", ">layer", ">change of the loss", ">standard error", "proposed")
    for slot in sorted(found.slots, key=lambda slot: (slot.change, slot.slot)):
        proposed = "streaming" if slot.slot in found.streaming else "as it is"
        layer = f"{slot.slot // 2}.{slot.slot % 2}"
        rows.add_row(str(slot.slot), layer, f"{slot.change:+.6f}", f"{slot.standard_error:.6f}", proposed)
    console.print(f"loss {found.loss:.6f} nats per token, {found.tokens:,} tokens")
    console.print(rows)
    if found.attention is None:
        console.print("the pattern is longer than a configuration may have")
    else:
        console.print(f"attention: {json.dumps(found.attention)}", soft_wrap=True)
