"""`longcat chat`: multi-turn conversation with the checkpoint's chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from longcat.pipeline.errors import InputError
from longcat.pipeline.progress import Progress
from longcat.stages.device import Device, Dtype
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.sampling import SamplingParams

Turn = dict[str, str]


class ChatSession:
    """One conversation with one checkpoint.

    The common prefix of consecutive prompts stays in the engine's cache and is not recomputed.
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
        options: EngineOptions | None = None,
    ) -> None:
        """Start a conversation with a checkpoint folder or a loaded engine.

        Raises:
            InputError, IntegrityError, ConfigError, UsageError: see `stages.inference.loading.load_engine`.
        """
        if isinstance(checkpoint, InferenceEngine):
            self.engine = checkpoint
        else:
            self.engine = load_engine(
                checkpoint, device=device, dtype=dtype, threads=threads, progress=progress, options=options
            )
        self.system = system
        self.turns: list[Turn] = []

    @property
    def messages(self) -> list[Turn]:
        """Messages of the conversation, the system message first."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.turns]

    def reset(self) -> None:
        """Clear all turns; the system message is kept."""
        self.turns.clear()

    def send(
        self, text: str, params: SamplingParams | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[str]:
        """Send `text` and yield the answer in pieces. A turn that fails before its first piece is not recorded.

        An answer that is not fully consumed is recorded up to the consumed part.

        Raises:
            InputError: the text is empty, or the conversation exceeds the context.
            CancelledError: `cancelled` returned true between two steps.
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
                hint="start a new conversation",
            )
        return self._answer(asked, ids, replace(params, max_tokens=min(params.max_tokens, room)), cancelled)

    def _answer(
        self, asked: Turn, ids: Sequence[int], params: SamplingParams, cancelled: Callable[[], bool]
    ) -> Iterator[str]:
        answer: Turn = {"role": "assistant", "content": ""}
        for number, delta in enumerate(self.engine.generate(ids, params, cancelled=cancelled)):
            if number == 0:
                self.turns += [asked, answer]
            answer["content"] += delta.text
            if delta.text:
                yield delta.text
