"""Context parallelism: every process holds a part of every row, and token mixers exchange the rest."""

from __future__ import annotations

from longcat.model.attention.base import SequenceMixer
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.mesh import Parallel


def share_context(model: LongcatFlash, parallel: Parallel) -> None:
    """Replace every token mixer by its context-parallel form, in place.

    Raises:
        ModelError: an attention kind does not support it; names it.
    """
    group = parallel.rows_group("context")
    for path, module in list(model.named_modules()):
        if isinstance(module, SequenceMixer):
            model.set_submodule(path, module.context_parallel(group))
