"""A job in the engine: its continuations, each with a sequence in the scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longcat.stages.inference.continuation import Chosen, Continuation, Delta
from longcat.stages.inference.draft_record import DraftRecord
from longcat.stages.inference.jobs import Job, PromptDelta, PromptScores, PromptStarted
from longcat.stages.inference.random_stream import resolve_seed
from longcat.stages.inference.sampling import TokenLogprobs
from longcat.stages.inference.sequence import Sequence
from longcat.stages.inference.token_history import TokenHistory
from longcat.stages.inference.tokenizer import EngineTokenizer

if TYPE_CHECKING:
    from longcat.stages.inference.grammar import Matcher


class Work:
    """A job and its open branches."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.open: set[Branch] = set()


@dataclass(eq=False)
class Branch:
    """Continuation `choice` of a prompt and its sequence.

    The first branch of a prompt computes it and the others share its pages. `scores` collects the log-probabilities of
    the prompt's tokens, if they are wanted.
    """

    work: Work
    prompt: int
    choice: int
    seed: int
    sequence: Sequence
    text: Continuation
    history: TokenHistory | None
    matcher: Matcher | None
    drafts: DraftRecord | None
    scores: list[TokenLogprobs] | None = None
    started: bool = False

    @property
    def job(self) -> Job:
        return self.work.job

    @property
    def drafting(self) -> bool:
        """Whether drafts may be proposed."""
        return self.drafts is not None and self.drafts.active

    @property
    def scored(self) -> int:
        """Number of tokens of the prompt whose log-probabilities are known or not wanted."""
        return self.job.score_from + len(self.scores or ())

    def tell_prompt(self) -> int:
        """Emit, once, what is known of the computed prompt; returns its number of tokens the first time, then 0."""
        if self.started or self.choice:
            return 0
        self.started = True
        self.job.emit(PromptStarted(self.prompt, self.sequence.cached))
        if self.scores is not None:
            self.job.emit(PromptScores(self.prompt, self.scores))
        return self.sequence.prompt_length

    def extend(self, chosen: list[Chosen], drafted: int, worth: float) -> Delta:
        """Add the tokens of a step to text and sequence, up to the first that ends the text; `worth` of its drafts."""
        if self.job.params.max_tokens == 0:
            return Delta(self.choice, "", (), finish_reason="length")
        taken, ended = self._within_grammar(chosen)
        delta = self.text.accept(taken, ended=ended, drafted=drafted)
        self.sequence.ids += delta.token_ids
        if self.history is not None:
            for token in delta.token_ids:
                self.history.append(token)
        if self.drafts is not None and drafted:
            self.drafts.count(delta.accepted, worth)
        return delta

    def _within_grammar(self, chosen: list[Chosen]) -> tuple[list[Chosen], bool]:
        """The tokens up to the end of the grammar, and whether it was reached."""
        if self.matcher is None:
            return chosen, False
        for place, one in enumerate(chosen):
            if one.token in self.text.stop_tokens:
                return chosen[: place + 1], True
            self.matcher.accept(one.token)
            if self.matcher.finished:
                return chosen[: place + 1], True
        return chosen, False

    def tell(self, delta: Delta) -> None:
        """Emit one step of the continuation."""
        self.job.emit(PromptDelta(self.prompt, delta))


def branches_of(work: Work, tokenizer: EngineTokenizer, stop_tokens: Iterable[int], drafts: bool) -> list[list[Branch]]:
    """Branches of a job by prompt; `drafts`: whether they begin with drafts."""
    job, params = work.job, work.job.params
    token_bytes = tokenizer.marked_bytes if params.marked_tags else tokenizer.token_bytes
    made = []
    for number, ids in enumerate(job.prompts):
        # Without a stated seed, equal prompts of a job get different answers.
        seed = resolve_seed(params.seed)
        branches = [
            Branch(
                work,
                number,
                choice,
                seed,
                Sequence(list(ids), len(ids) + params.max_tokens, group=work, key=job.key),
                Continuation(token_bytes, params, stop_tokens, choice),
                TokenHistory.of(params, ids),
                None if params.grammar is None else params.grammar.matcher(),
                DraftRecord() if drafts else None,
            )
            for choice in range(job.choices)
        ]
        if job.score_top is not None:
            # The first token of a text has no probability.
            branches[0].scores = [] if job.score_from else [TokenLogprobs(ids[0], None)]
            branches[0].sequence.reuse_limit = max(job.score_from - 1, 0)
        made.append(branches)
    return made
