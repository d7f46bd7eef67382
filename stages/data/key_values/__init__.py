"""Stage `data.key-values`: made-up facts among other text, to train recall over any distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.errors import ConfigError
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.key_values.config import KeyValuesConfig

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def _check(config: KeyValuesConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    if config.length is None and inputs.get("tokens"):
        raise ConfigError("length: missing, and tokens are given", hint="set length, in tokens, or leave tokens out")
    if config.length is not None and not inputs.get("tokens"):
        raise ConfigError(f"length: {config.length} needs tokens, whose text fills it", hint="pass --tokens NAME")
    return {}


@stage("data.key-values", revision=2, inputs={"tokens": "tokens?"}, output="documents", check=_check)
def write_key_values(context: Context[KeyValuesConfig]) -> Result:
    """Write documents of made-up facts, each stated several times, alone or among lines of other text.

    With tokens, documents have `length` of these tokens and are filled with their training text; the tokens' validation
    text stays unseen. Document n depends on the seed, n, the configuration and the tokens only.

    Raises:
        InputError: the facts alone exceed the length, or the text is shorter than a document.
    """
    from longcat.pipeline.documents import shard_name
    from longcat.stages.data.key_values.shard import WriteTask, write_shard

    config, tokens = context.config, context.optional("tokens")
    size = config.documents_per_shard
    tasks = [
        WriteTask(
            first=first,
            end=min(first + size, config.documents),
            tokens=None if tokens is None else tokens.path,
            target=context.output / shard_name(number),
            config=config,
        )
        for number, first in enumerate(range(0, config.documents, size))
    ]
    results = context.map_shards(write_shard, tasks, description="writing documents")
    return Result(
        counts={
            "documents_out": sum(result["documents"] for result in results),
            "mentions": sum(result["mentions"] for result in results),
        }
    )
