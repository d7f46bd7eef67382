"""Stage `extend`: longer context, by continued training in phases of longer sequences and larger rotary base."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.extend.config import ExtendConfig
from longcat.stages.train.launch.torchrun import follows, run_or_launch

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def _check(config: ExtendConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.stages.extend.check import foresee_extension

    return foresee_extension(config, inputs)


def _go_on(run: str, differences: Mapping[str, tuple[Any, Any]], name: str | None) -> str | None:
    """Other initial weights of a conversion cannot go on from the saves of a run."""
    if any(key.endswith(".initial_std") for key in differences):
        return None
    words = ["longcat", "extend", "--resume-from", run]
    for key, (_, here) in differences.items():
        words += ["--set", f"{key}={json.dumps(here)}"]
    return shlex.join([*words, *(("--name", name) if name else ())])


@stage(
    "extend",
    revision=4,
    inputs={"checkpoint": "checkpoint", "tokens": "tokens"},
    output="checkpoint",
    follows=follows,
    check=_check,
    body="longcat.stages.extend.run:extend_checkpoint",
    go_on=_go_on,
)
def extend(context: Context[ExtendConfig]) -> Result:
    """Extend the context of a checkpoint in phases (LongCat-Flash report, section 3.4).

    Each phase sets the rotary base and the context length, then continues training with a fraction of long documents.
    """
    return run_or_launch(context, "extend")
