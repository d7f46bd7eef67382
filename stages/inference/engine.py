"""The inference engine: continuous batching of many jobs over one checkpoint.

Every step computes some tokens of some sequences, as the scheduler plans (`scheduler`), chooses the next tokens
(`runner`), and emits the events of the jobs (`jobs`). No threads and no HTTP; see `engine_thread` for a server.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from longcat.pipeline.errors import InputError
from longcat.stages.inference.continuation import Delta
from longcat.stages.inference.core import Core, build_core
from longcat.stages.inference.jobs import (
    CancelledError,
    DeadlineError,
    Event,
    Finished,
    Job,
    PromptDelta,
    PromptScores,
)
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.runner import Outcome
from longcat.stages.inference.sampling import SamplingParams, TokenLogprobs
from longcat.stages.inference.step_item import StepItem
from longcat.stages.inference.work import Branch, Work, branches_of

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig
    from longcat.model.transformer import LongcatFlash
    from longcat.stages.inference.stats import EngineStats
    from longcat.stages.inference.tokenizer import EngineTokenizer

logger = logging.getLogger(__name__)
Cancelled = Callable[[], bool]


def _never() -> bool:
    return False


class InferenceEngine:
    """Computes continuations and log-probabilities of many jobs at once. All calls come from one thread.

    Generation ends at `stop_token_ids`, the tokenizer's end of text if there are none.
    """

    def __init__(
        self,
        model: LongcatFlash,
        tokenizer: EngineTokenizer,
        stop_token_ids: Sequence[int] = (),
        options: EngineOptions | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.options = options or EngineOptions()
        # Embedding rows beyond the tokenizer's tokens are padding and have no text.
        self.vocab_size = min(model.config.vocab_size, tokenizer.vocab_size)
        self.stop_token_ids = frozenset(stop_token_ids) or frozenset({tokenizer.eos_id})
        self._branches: dict[object, Branch] = {}
        self._works: dict[Job, Work] = {}

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def max_length(self) -> int:
        """Maximum number of prompt and generated tokens."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def core(self) -> Core:
        """Cache, scheduler and runner, made at the first use, since their memory is large."""
        return build_core(self.model, self.vocab_size, self.options)

    def prepare(self) -> None:
        """Make `core` now. Raises as `build_core`, so that wrong options end a server at its start."""
        _ = self.core

    @property
    def stats(self) -> EngineStats:
        """Counters since the start."""
        return self.core.stats

    @property
    def running(self) -> int:
        """Number of jobs with a sequence in the cache; may be read from any thread."""
        return len({sequence.group for sequence in list(self.core.scheduler.running)})

    def holds(self, job: Job) -> bool:
        """Whether a job has been submitted and has not finished."""
        return job in self._works

    def check_prompt(self, ids: Sequence[int], new_tokens: int = 0) -> None:
        """Check that the model can process `ids` and then generate `new_tokens`.

        Raises:
            InputError: no ids, an id outside the vocabulary, or more tokens than the context holds.
        """
        if not ids:
            raise InputError("an empty prompt gives the model nothing to continue", where="prompt")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise InputError(f"token ids must be from 0 to {self.vocab_size - 1}", where="prompt")
        if len(ids) + new_tokens > self.max_length:
            raise InputError(
                f"the prompt has {len(ids)} tokens and {new_tokens} more were requested, "
                f"which exceeds the context of {self.max_length} tokens",
                where="prompt",
            )

    def submit(self, job: Job) -> None:
        """Take a job; its events come from `step`.

        Raises:
            InputError: a prompt is invalid (see `check_prompt`), or too long for the cache.
        """
        for ids in job.prompts:
            self.check_prompt(ids, job.params.max_tokens)
        work = Work(job)
        self._works[job] = work
        try:
            for branches in branches_of(work, self.tokenizer, self.stop_token_ids, self.core.proposer is not None):
                self._add(work, branches)
        except InputError:
            self._drop(work)
            raise

    def _add(self, work: Work, branches: Sequence[Branch]) -> None:
        first, *others = branches
        scheduler = self.core.scheduler
        scheduler.add(first.sequence)
        for other in others:
            if self.core.runner.cache.recurrent:
                scheduler.add(other.sequence)
            else:
                scheduler.fork(first.sequence, other.sequence)
        for branch in branches:
            work.open.add(branch)
            self._branches[branch.sequence] = branch

    def cancel(self, job: Job) -> None:
        """Drop a job without further events; no effect on a finished one."""
        if job in self._works:
            self._drop(self._works[job])

    def _drop(self, work: Work) -> None:
        for branch in list(work.open):
            self._close(branch)
        self._works.pop(work.job, None)

    def _close(self, branch: Branch) -> None:
        branch.work.open.discard(branch)
        self._branches.pop(branch.sequence, None)
        self.core.scheduler.remove(branch.sequence)

    def _finish(self, work: Work, error: Exception | None = None) -> None:
        """End a job with its last event."""
        self._drop(work)
        work.job.emit(Finished(error))

    def step(self) -> None:
        """Run one step; no effect without unfinished jobs.

        Errors of the model end the jobs of the step, and the engine goes on with the others.
        """
        self._end_given_up()
        if not self._works:
            return
        plan = self.core.scheduler.schedule()
        items = [StepItem(self._branches[one.sequence], one.first, one.length) for one in plan.items]
        with self._failing(items):
            outcomes = self.core.compute(items, plan.copies)
            worth = self.core.draft_worth(len(items))
            for item, outcome in zip(items, outcomes, strict=True):
                with self._failing([item]):
                    self._take(item, outcome, worth)
            self.core.propose(items)

    @contextmanager
    def _failing(self, items: Sequence[StepItem]) -> Iterator[None]:
        """Context in which an error ends the jobs of these items and no others; an interrupt belongs to the caller."""
        try:
            yield
        except Exception as error:
            logger.exception("a step failed")
            for work in dict.fromkeys(item.branch.work for item in items):
                if work.job in self._works:
                    self._finish(work, error)

    def _take(self, item: StepItem, outcome: Outcome, worth: float) -> None:
        """Take the result of a step for one branch: emit its events, and close it if it has ended.

        `worth`: price of drafts in this step.
        """
        branch, sequence = item.branch, item.branch.sequence
        if sequence not in self._branches:
            return
        if outcome.error is not None:
            self._finish(branch.work, outcome.error)
            return
        if not item.completes:
            self.core.scheduler.advance(sequence, item.end)
            return
        prompt = branch.tell_prompt()
        before = len(sequence.ids)
        delta = branch.extend(outcome.chosen, drafted=max(item.choosing - 1, 0), worth=worth)
        self.core.stats.count(delta, prompt)
        # The last chosen token is not computed yet, unless the text ended with an accepted draft.
        self.core.scheduler.advance(sequence, min(before + max(len(outcome.chosen) - 1, 0), len(sequence.ids)))
        branch.tell(delta)
        if delta.finish_reason is not None:
            self._close(branch)
            if not branch.work.open:
                self._finish(branch.work)

    def _end_given_up(self) -> None:
        """End jobs that were cancelled or are late."""
        now = time.monotonic()
        for job, work in list(self._works.items()):
            if job.cancelled.is_set():
                self._finish(work, CancelledError())
            elif now > job.deadline:
                self._finish(work, DeadlineError())

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        choices: int = 1,
        cancelled: Cancelled = _never,
    ) -> Iterator[Delta]:
        """Continue a prompt `choices` times; the last delta of each has a finish reason.

        Raises:
            InputError: the prompt is invalid, see `submit`.
            CancelledError: `cancelled` returned true between two steps.
            LongcatError: the model returned logits that are not finite.
        """
        for event in self.events([prompt_ids], params, choices=choices, cancelled=cancelled):
            if isinstance(event, PromptDelta):
                yield event.delta

    def score(
        self, ids: Sequence[int], top: int = 0, start: int = 0, cancelled: Cancelled = _never
    ) -> list[TokenLogprobs]:
        """Log-probabilities of the tokens from index `start` on, each given all tokens before it.

        None for the first token of a text. Raises as `generate`.
        """
        nothing = SamplingParams(max_tokens=0)
        events = self.events([ids], nothing, score_top=top, score_from=start, cancelled=cancelled)
        return next(event.logprobs for event in list(events) if isinstance(event, PromptScores))

    def events(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, cancelled: Cancelled = _never, **options: Any
    ) -> Iterator[Event]:
        """Events of a job, made from these arguments of `Job`, before the last one; steps run as they are consumed.

        Raises as `generate`.
        """
        found: deque[Event] = deque()
        job = Job(prompts, params, found.append, math.inf, **options)
        self.submit(job)
        try:
            while True:
                while found:
                    event = found.popleft()
                    if not isinstance(event, Finished):
                        yield event
                    elif event.error is not None:
                        raise event.error
                    else:
                        return
                if cancelled():
                    raise CancelledError
                self.step()
        finally:
            self.cancel(job)
