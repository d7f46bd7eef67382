"""What a step computes of one sequence."""

from __future__ import annotations

from typing import NamedTuple

from longcat.stages.inference.work import Branch


class StepItem(NamedTuple):
    """The tokens at positions `first` to `first + length - 1` of a branch's sequence, drafts included."""

    branch: Branch
    first: int
    length: int

    @property
    def end(self) -> int:
        return self.first + self.length

    @property
    def completes(self) -> bool:
        """Whether all ids are computed after the step, so that a token can be chosen."""
        return self.end >= len(self.branch.sequence.ids)

    @property
    def choosing(self) -> int:
        """Number of rows from which a token is chosen: the last id and the drafts after it."""
        if not self.completes or self.branch.job.params.max_tokens == 0:
            return 0
        return self.end - len(self.branch.sequence.ids) + 1

    @property
    def wanted(self) -> int:
        """Number of last tokens whose logits are wanted."""
        branch = self.branch
        if branch.scores is not None and self.first < branch.sequence.prompt_length - 1:
            return self.length
        return self.choosing
