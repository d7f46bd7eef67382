"""`longcat chat`: a conversation that remembers, in the checkpoint's own template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from longcat.pipeline.errors import InputError
from longcat.pipeline.progress import Progress
from longcat.stages.serve.engine import CancelledError, InferenceEngine, TokenCache
from longcat.stages.serve.loading import Device, Dtype, load_engine
from longcat.stages.serve.sampling import SamplingParams

Turn = dict[str, str]
# Room kept beyond what a turn needs, so that the next turn seldom has to read the conversation again.
SPARE_TOKENS = 1024


class ChatSession:
    """One conversation with one checkpoint.

    Tokens that earlier turns have in common with the next one stay in the cache and are not computed again.
    """

    def __init__(
        self,
        checkpoint: Path | InferenceEngine,
        system: str | None = None,
        *,
        device: Device = "auto",
        dtype: Dtype = "auto",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Begin a conversation, with a checkpoint folder or a loaded engine.

        Raises:
            InputError, IntegrityError, ConfigError, UsageError: see `stages.serve.loading.load_engine`.
        """
        if isinstance(checkpoint, InferenceEngine):
            self.engine = checkpoint
        else:
            self.engine = load_engine(checkpoint, device=device, dtype=dtype, threads=threads, progress=progress)
        self.system = system
        self.turns: list[Turn] = []
        self._cache: TokenCache | None = None

    @property
    def messages(self) -> list[Turn]:
        """The conversation as messages, the system's first."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.turns]

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns.clear()

    def send(
        self, text: str, params: SamplingParams | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[str]:
        """Say `text`; the answer piece by piece. A turn that fails before its first piece leaves no trace.

        An answer that is not read to its end stays in the conversation as far as it was read.

        Raises:
            InputError: the text is empty, or the conversation has outgrown the context.
            CancelledError: `cancelled` said so between two steps of the answer.
        """
        if not text.strip():
            raise InputError("the message is empty")
        params = params or SamplingParams(max_tokens=512)
        asked: Turn = {"role": "user", "content": text}
        ids = self.engine.tokenizer.encode_chat([*self.messages, asked])
        room = self.engine.max_length - len(ids)
        if room < 1:
            raise InputError(
                f"the conversation has {len(ids)} tokens, the context holds {self.engine.max_length} in all",
                hint="begin a new conversation",
            )
        return self._answer(asked, ids, replace(params, max_tokens=min(params.max_tokens, room)), cancelled)

    def _answer(
        self, asked: Turn, ids: Sequence[int], params: SamplingParams, cancelled: Callable[[], bool]
    ) -> Iterator[str]:
        answer: Turn = {"role": "assistant", "content": ""}
        cache = self._cache_for(len(ids) + params.max_tokens)
        try:
            for number, delta in enumerate(self.engine.generate(ids, params, cache=cache, cancelled=cancelled)):
                if number == 0:
                    self.turns += [asked, answer]
                answer["content"] += delta.text
                if delta.text:
                    yield delta.text
        except (GeneratorExit, CancelledError):
            raise
        except BaseException:
            # It may have struck between two layers, which leaves the cache with more of one than of the other.
            self._cache = None
            raise

    def _cache_for(self, tokens: int) -> TokenCache:
        if self._cache is None or self._cache.capacity < tokens:
            self._cache = self.engine.new_cache(min(self.engine.max_length, tokens + SPARE_TOKENS))
        return self._cache
