"""Grammars compiled by llguidance into masks of allowed tokens.

Compilation runs in a thread of its own with a large stack: the compiler recurses along chains of rules and references,
and an overflow would end the whole process. Its work is limited by the size of the text and by llguidance's budgets.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from torch import Tensor

from longcat.pipeline.errors import InputError, LongcatError, MachineError, UsageError
from longcat.stages.inference.grammar_spec import GrammarSpec, compiler_source
from longcat.stages.inference.tokenizer import EngineTokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Eight times what the longest chains of references in a text of MAX_BYTES take; touched pages only are allocated.
STACK_BYTES = 512 << 20
ERROR_CHARACTERS = 300
# A state of the lexer takes up to 2 KB.
LEXER_STATES = 25_000
# Compiled grammars take up to 50 bytes for each of their source.
GRAMMAR_BYTES = 64 << 10
BYTES_PER_SOURCE_BYTE = 50


@dataclass(frozen=True)
class CompileLimits:
    """Seconds of one compilation, compilations at a time, and what the cache of compiled grammars may hold."""

    seconds: float = 10.0
    at_once: int = 2
    grammars: int = 64
    cache_bytes: int = 128 << 20


class CompiledGrammar:
    """A grammar ready for any number of continuations, which share the states of its lexer.

    `exhausted`: a text has used up the budgets of the lexer, and further matchers may allow nothing.
    """

    def __init__(self, start: LLMatcher, vocabulary: int, end_ids: Collection[int]) -> None:
        self._start = start
        self.vocabulary = vocabulary
        self.end_ids = frozenset(end_ids)
        self.exhausted = False

    def matcher(self) -> GrammarMatcher:
        """A matcher at the start of the text."""
        return GrammarMatcher(self, self._start.deep_copy())


class GrammarMatcher:
    """Position of one continuation in its grammar; see `grammar.Matcher`. One thread at a time."""

    def __init__(self, grammar: CompiledGrammar, state: LLMatcher) -> None:
        self._grammar = grammar
        self._state = state
        self._words = -(-grammar.vocabulary // 32)
        # Accepted tokens; llguidance does not count an end token after the grammar itself has stopped.
        self._accepted = 0
        self._uncounted = 0

    @property
    def finished(self) -> bool:
        """Whether the text is complete and only an end token can follow."""
        return bool(self._state.is_stopped()) and not self._failed()

    def mask(self, words_W: Tensor) -> None:
        """Write the tokens allowed next into contiguous int32 words [W] on the CPU; ids beyond the tokenizer are not.

        No token is allowed once the text has become too ambiguous for the grammar's budgets.
        """
        words_W[self._words :] = 0
        self._state.unsafe_compute_mask_ptr(words_W.data_ptr(), self._words * 4)
        if self._failed():
            words_W.zero_()

    def accept(self, token: int) -> None:
        """Advance by a token.

        Raises:
            InputError: the grammar does not allow it; the position stays as it was.
        """
        if not self._failed():
            self._advance(token)
        self._accepted += 1

    def _advance(self, token: int) -> None:
        if self.valid_prefix([token]) != 1:
            raise InputError(f"the grammar does not allow token {token} here", where="grammar")
        if self.finished:
            self._uncounted = 1
        else:
            self._state.consume_token(token)

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        """Number of the leading tokens that could be accepted one after another."""
        if not self.finished:
            # An id that llguidance does not know would end the matcher.
            known = list(takewhile(lambda token: 0 <= token < self._grammar.vocabulary, tokens))
            return int(self._state.validate_tokens(known))
        ended = self._uncounted or self._state.stop_reason() == "EndOfSentence"
        return int(not ended and bool(tokens) and tokens[0] in self._grammar.end_ids)

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens.

        Raises:
            ValueError: fewer were accepted.
        """
        if count > self._accepted:
            raise ValueError(f"only {self._accepted} of {count} tokens were accepted")
        if count:
            self._state.rollback(count - self._uncounted)
            self._accepted -= count
            self._uncounted = 0

    def _failed(self) -> bool:
        """Whether the budgets are used up, which is for good."""
        failed = bool(self._state.is_error())
        self._grammar.exhausted |= failed
        return failed


class GrammarCompiler:
    """Compiles grammars for one tokenizer and keeps the latest. Thread-safe; call `compile` off an event loop."""

    def __init__(
        self, tokenizer: EngineTokenizer, end_ids: Collection[int], limits: CompileLimits | None = None
    ) -> None:
        """`end_ids` are the tokens that may end a text."""
        self._tokenizer = tokenizer
        self._end_ids = sorted(end_ids)
        self._limits = limits or CompileLimits()
        self._slots = threading.BoundedSemaphore(self._limits.at_once)
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._cache: OrderedDict[GrammarSpec, CompiledGrammar] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def cache_bytes(self) -> int:
        """Estimated bytes of the compiled grammars kept."""
        return self._bytes

    def compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """The compiled grammar, from the cache if it is there.

        Raises:
            InputError: the grammar is invalid, not supported or takes too long; names its field.
            MachineError: no thread can be started.
            UsageError: llguidance is not installed.
        """
        with self._lock:
            cached = self._cache.get(spec)
            if cached is not None and not cached.exhausted:
                self._cache.move_to_end(spec)
                return cached
        compiled = self._compiled(spec)
        with self._lock:
            self._keep(spec, compiled)
        return compiled

    def _compiled(self, spec: GrammarSpec) -> CompiledGrammar:
        source = compiler_source(spec)
        state = _in_time(self._limits.seconds, self._slots, lambda: self._start(source), spec.field)
        if state.is_error():
            raise InputError(f"not a supported grammar: {_brief(state.get_error())}", where=spec.field)
        return CompiledGrammar(state, self._tokens().vocab_size, self._end_ids)

    def _start(self, source: str) -> LLMatcher:
        llguidance = _llguidance()
        limits = llguidance.LLParserLimits(max_lexer_states=LEXER_STATES, verbose_errors=False)
        return llguidance.LLMatcher(self._tokens(), source, log_level=0, limits=limits)

    def _tokens(self) -> LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                llguidance = _llguidance()
                words = llguidance.TokenizerWrapper(_Words(self._tokenizer, self._end_ids[0]))
                slices = llguidance.LLTokenizer.json_slices()
                self._vocabulary = llguidance.LLTokenizer(words, eos_token=self._end_ids, slices=slices)
            return self._vocabulary

    def _keep(self, spec: GrammarSpec, compiled: CompiledGrammar) -> None:
        if spec not in self._cache:
            self._bytes += _cost(spec)
        self._cache[spec] = compiled
        while len(self._cache) > self._limits.grammars or self._bytes > self._limits.cache_bytes:
            oldest, _ = self._cache.popitem(last=False)
            self._bytes -= _cost(oldest)


class _Words:
    """The tokens as llguidance reads them: their bytes, which of them are special, and a way to encode text."""

    def __init__(self, tokenizer: EngineTokenizer, end_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_id
        self.bos_token_id = None
        self.tokens = [tokenizer.literal_bytes(number) for number in range(tokenizer.vocab_size)]
        # Plain text never needs an added token, so that a grammar allows one only where it names it.
        self.special_token_ids = sorted(tokenizer.added_ids)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _cost(spec: GrammarSpec) -> int:
    return GRAMMAR_BYTES + BYTES_PER_SOURCE_BYTE * len(spec.text)


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        hint = 'pip install "longcat-cli[serve]"'
        raise UsageError("structured output needs llguidance", hint=hint) from None
    return llguidance


def _in_time(seconds: float, slots: threading.Semaphore, work: Callable[[], LLMatcher], where: str) -> LLMatcher:
    """Result of `work` in a thread with a large stack.

    A thread cannot be ended: one that takes too long occupies its slot until its own budgets are spent.
    """
    if not slots.acquire(timeout=seconds):
        raise InputError(f"could not be compiled within {seconds:g} s, others are being compiled", where=where)
    found: list[LLMatcher | BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # handed to the waiting thread
            found.append(error)
        finally:
            slots.release()

    thread = threading.Thread(target=run, name="compile-grammar", daemon=True)
    try:
        with _stack(STACK_BYTES):
            thread.start()
    except RuntimeError:
        slots.release()
        raise MachineError("no memory is left for the stack of the grammar compiler", hint="try again") from None
    thread.join(seconds)
    if not found:
        raise InputError(f"takes more than {seconds:g} s to compile", where=where)
    (result,) = found
    if isinstance(result, LongcatError):
        raise result
    if isinstance(result, BaseException):
        raise InputError(f"not a supported grammar: {_brief(str(result))}", where=where) from None
    return result


_STACK_LOCK = threading.Lock()


@contextmanager
def _stack(size: int) -> Iterator[None]:
    """Threads started inside get this stack."""
    with _STACK_LOCK:
        before = threading.stack_size(size)
        try:
            yield
        finally:
            threading.stack_size(before)


def _brief(message: str) -> str:
    """The first lines of an error on one line."""
    return " ".join(message.split())[:ERROR_CHARACTERS]
