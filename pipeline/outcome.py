"""Result of running a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import NothingLeftError
from longcat.pipeline.refs import Named


@dataclass(frozen=True)
class Outcome:
    """Result of a plan: the artifact, whether it was reused, and its version if it was named."""

    artifact: Artifact
    reused: bool
    named: Named | None

    def check_something_is_left(self) -> None:
        """Raise NothingLeftError if the stage kept no documents; names the most frequent reasons."""
        counts = self.artifact.manifest.counts
        if counts.get("documents_out") != 0:
            return
        reasons = sorted(counts.get("dropped", {}).items(), key=lambda item: (-item[1], item[0]))
        told = ", ".join(f"{reason} {count:,}" for reason, count in reasons[:3]) or "there were none"
        name = f"{self.named.name}@{self.named.number}" if self.named else self.artifact.id
        looked = "data inspect" if self.artifact.manifest.stage == "data.filter" else "artifacts show"
        raise NothingLeftError(
            f"none of {counts.get('documents_in', 0):,} documents is left: {told}",
            where=name,
            hint=f"`longcat {looked} {name}` shows more",
        )

    def summary(self) -> dict[str, Any]:
        """Object printed by `--json`."""
        manifest = self.artifact.manifest
        return {
            "id": manifest.id,
            "kind": manifest.kind,
            "path": str(self.artifact.path),
            "name": self.named.name if self.named else None,
            "version": self.named.number if self.named else None,
            "stage": manifest.stage,
            "reused": self.reused,
            "counts": manifest.counts,
            "metrics": manifest.metrics,
            "performance": manifest.performance,
        }
