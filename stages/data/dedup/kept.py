"""Documents of a shard that the stage keeps, as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document
from longcat.stages.data.dedup.config import Scope
from longcat.stages.data.dedup.paragraphs import Remover


@dataclass(frozen=True)
class KeptShard:
    """Documents of `shard` with true in `kept` (.npy of bool), without the paragraphs of `repeated` (.npy), if any."""

    shard: InputShard
    kept: Path
    repeated: Path | None
    scope: Scope

    def remover(self) -> Remover | None:
        """Remover of the repeated paragraphs, which counts them; None if none are removed."""
        return None if self.repeated is None else Remover(self.repeated, self.scope)

    def documents(self, remover: Remover | None) -> Iterator[Document]:
        """The documents, cleaned by `remover`; emptied ones are left out."""
        kept = np.load(self.kept)
        staying = (document for row, document in enumerate(self.shard.documents()) if kept[row])
        return remover.clean(staying) if remover else staying

    def texts(self) -> Iterator[str]:
        """Texts of the documents."""
        return (document.text for document in self.documents(self.remover()))
