"""Parts of an answer in LongCat's format: content, reasoning and tool calls, parsed as the text comes.

`<longcat_think>` ... `</longcat_think>` is reasoning; `<longcat_tool_call>`, a JSON object with name and arguments and
`</longcat_tool_call>` a call; everything else is content. What is damaged or unfinished is content, too: nothing is
lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from longcat.stages.formats.special_tokens import MARKUP
from longcat.stages.inference.tokenizer import TAG_MARK
from longcat.stages.inference.tool_calls import AFTER, HEAD, HEAD_CHARACTERS, ObjectScanner, parse_call, parse_name

PartKind = Literal["content", "reasoning", "call", "arguments", "tag"]
CALL, CALL_END, THINK, THINK_END = MARKUP
MARKED = re.compile(TAG_MARK + f"(?:{'|'.join(MARKUP)})")


@dataclass(frozen=True)
class AnswerPart:
    """A piece of an answer.

    `call` begins the call `index` of function `name`, `arguments` adds to the JSON text of its arguments, `tag` is
    nothing to show. `source` is the text it was made from: those of all parts together are the whole text.
    """

    kind: PartKind
    text: str
    source: str
    index: int = 0
    name: str = ""


class AnswerParser:
    """Parses one answer; the parts do not depend on how the text is split, but for the split of content and arguments.

    Tags are those that `EngineTokenizer.marked_bytes` marks; the same text in plain tokens is content.
    """

    def __init__(self, *, thinking: bool = False, calls: bool = True, stream: bool = True) -> None:
        """`thinking`: the prompt ends inside a thought. `calls`: tool calls are looked for.

        With `stream` arguments come as they are written, and what is damaged after their beginning goes on as content;
        without it a call is reported only if it is complete and its arguments are a JSON object.
        """
        self._stream = stream
        self._tags = MARKED if calls else re.compile(TAG_MARK + f"(?:{THINK}|{THINK_END})")
        self._longest = 1 + max(map(len, MARKUP))
        self._buffer = ""
        self._searched = 0
        self._opening = ""
        self._scanner = ObjectScanner()
        self._mode = self._thought if thinking else self._plain
        self.calls = 0

    @property
    def called(self) -> bool:
        """Whether there was a tool call: the finish reason `stop` becomes `tool_calls`."""
        return self.calls > 0

    def push(self, text: str) -> list[AnswerPart]:
        """Add text; returns the parts that are certain."""
        self._buffer += text
        return list(self._drain(final=False))

    def finish(self) -> list[AnswerPart]:
        """The parts of what is held back."""
        return list(self._drain(final=True))

    def _drain(self, final: bool) -> Iterator[AnswerPart]:
        """Run modes until one waits for more text. A mode takes text from the buffer or sets another mode."""
        while True:
            before = (len(self._buffer), self._mode)
            yield from self._mode(final)
            if (len(self._buffer), self._mode) == before:
                return

    def _plain(self, final: bool) -> Iterator[AnswerPart]:
        tag, end = self._next_tag(final)
        yield from self._shown("content", end)
        if tag == THINK:
            yield AnswerPart("tag", "", self._take(len(TAG_MARK + tag)))
            self._mode = self._thought
        elif tag == CALL:
            self._opening = self._take(len(TAG_MARK + tag))
            self._mode = self._call
        elif tag is not None:  # an end without a beginning
            yield from self._shown("content", len(TAG_MARK + tag))

    def _thought(self, final: bool) -> Iterator[AnswerPart]:
        tag, end = self._next_tag(final)
        yield from self._shown("reasoning", end)
        if tag == THINK_END:
            yield AnswerPart("tag", "", self._take(len(TAG_MARK + tag)))
            self._mode = self._plain
        elif tag is not None:
            yield from self._shown("reasoning", len(TAG_MARK + tag))

    def _call(self, final: bool) -> Iterator[AnswerPart]:
        """After the opening tag: wait for the head of the call, or for all of it."""
        tag, end = self._next_tag(final)
        if self._stream:
            head = HEAD.match(self._buffer[: min(end, HEAD_CHARACTERS)])
            name = parse_name(head) if head else None
            if head and name:
                yield self._begun(name, self._take(head.end()))
                self._scanner = ObjectScanner()
                self._mode = self._arguments
                return
        if tag is None and not final:
            return
        yield from self._whole_call(self._take(end), closed=tag == CALL_END)
        self._mode = self._plain

    def _whole_call(self, body: str, closed: bool) -> Iterator[AnswerPart]:
        call = parse_call(body)
        if call is None:
            source, self._opening = self._opening + body, ""
            yield AnswerPart("content", source.replace(TAG_MARK, ""), source)
            return
        yield self._begun(call.name, call.before)
        # In another order of keys the arguments are part of `before`.
        yield AnswerPart("arguments", call.arguments, call.arguments if HEAD.match(body) else "", self.calls - 1)
        rest = call.after + (self._take(len(TAG_MARK + CALL_END)) if closed else "")
        if rest:
            yield AnswerPart("tag", "", rest)

    def _begun(self, name: str, source: str) -> AnswerPart:
        self.calls += 1
        opening, self._opening = self._opening, ""
        return AnswerPart("call", "", opening + source, self.calls - 1, name)

    def _arguments(self, final: bool) -> Iterator[AnswerPart]:
        tag, end = self._next_tag(final)
        size = self._scanner.scan(self._buffer[:end])
        taken = self._take(end if size is None else size)
        if taken:
            yield AnswerPart("arguments", taken, taken, self.calls - 1)
        if size is not None:
            self._mode = self._after
        elif tag is not None:
            self._mode = self._plain

    def _after(self, final: bool) -> Iterator[AnswerPart]:
        """After the arguments: the end of the call, or something else that is content."""
        tag, end = self._next_tag(final)
        found = AFTER.match(self._buffer[:end])
        if found is None or found.end() < end or (tag is not None and tag != CALL_END):
            self._mode = self._plain
        elif tag == CALL_END:
            yield AnswerPart("tag", "", self._take(end + len(TAG_MARK + CALL_END)))
            self._mode = self._plain
        elif final:
            yield AnswerPart("tag", "", self._take(end))

    def _next_tag(self, final: bool) -> tuple[str | None, int]:
        """The next tag in the buffer, and how much text is certain to be before it."""
        found = self._tags.search(self._buffer, self._searched)
        if found:
            return found.group()[len(TAG_MARK) :], found.start()
        end = len(self._buffer)
        if not final:
            mark = self._buffer.rfind(TAG_MARK, max(0, end - self._longest + 1))
            end = mark if mark >= 0 else end
        self._searched = end
        return None, end

    def _shown(self, kind: PartKind, end: int) -> Iterator[AnswerPart]:
        source = self._take(end)
        if source:
            text = MARKED.sub(lambda tag: tag.group()[len(TAG_MARK) :], source)
            yield AnswerPart(kind, text, source)

    def _take(self, end: int) -> str:
        taken, self._buffer = self._buffer[:end], self._buffer[end:]
        self._searched = max(0, self._searched - end)
        return taken
