"""What a text must look like: kinds of grammars, from the fields of requests, checked before any is compiled."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from longcat.pipeline.errors import InputError

# Chains of references take compiler stack in proportion to the text: see `structured.STACK_BYTES`.
MAX_BYTES = 128 << 10
MAX_DEPTH = 64
MAX_CHOICES = 1024
# A mask takes time in proportion to the largest count of a pattern, 16 ms for 10,000.
MAX_REPEATS = 4096
_REPEATS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?")
# Bounded blanks, the style of json.dumps or compact: with any blanks allowed small models write them without end.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
# The compiler would look without end for forced text where a grammar forces the same byte again and again.
OPTIONS = '%llguidance {"no_forcing": true}'

Kind = Literal["json_object", "json_schema", "regex", "choice", "grammar", "tools"]


@dataclass(frozen=True)
class GrammarSpec:
    """Source of a grammar; equal ones share their compiled form.

    `text` is a JSON schema, a regular expression (Rust's syntax), a JSON list of choices, a Lark grammar or the rules
    of `tools`; nothing for json_object. With `thinking` the text begins inside a thought: anything up to its end tag,
    then what the grammar says. `field` names the source in errors.

    Raises:
        InputError: the text is too large or too deeply nested.
    """

    kind: Kind
    text: str = ""
    thinking: bool = False
    field: str = field(default="response_format", compare=False)

    def __post_init__(self) -> None:
        try:
            size = len(self.text.encode())
        except UnicodeEncodeError:
            raise InputError("contains a lone surrogate, which is not valid Unicode", where=self.field) from None
        if size > MAX_BYTES:
            raise InputError(f"has {size} bytes, at most {MAX_BYTES} are supported", where=self.field)
        if self.kind in ("regex", "grammar") and not self.text:
            raise InputError("is empty", where=self.field)
        if self.kind == "grammar" and "%llguidance" in self.text:
            raise InputError("%llguidance is not supported, the options are fixed", where=self.field)
        if self.kind != "choice" and _most_repeats(self.text) > MAX_REPEATS:
            raise InputError(f"repeats a pattern more than {MAX_REPEATS} times", where=self.field)


def schema_spec(schema: Any, where: str = "response_format.json_schema.schema") -> GrammarSpec:
    """JSON that satisfies a schema.

    Raises:
        InputError: it is not an object, too large or too deep, or sets the compiler's own options.
    """
    return GrammarSpec("json_schema", schema_text(schema, where), field=where)


def schema_text(schema: Any, where: str) -> str:
    """Text of a schema in the order of its keys, which is the order of the properties in the answer.

    Raises:
        InputError: see `schema_spec`.
    """
    if not isinstance(schema, Mapping):
        raise InputError("is not a JSON object", where=where)
    if "x-guidance" in schema:
        raise InputError("x-guidance is not supported, blanks and lenience are fixed", where=where)
    _check_depth(schema, where)
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise InputError("contains a value that JSON cannot represent", where=where) from None


def choice_spec(choices: Any, where: str = "structured_outputs.choice") -> GrammarSpec:
    """One of several texts.

    Raises:
        InputError: not a list of 1 to 1024 texts.
    """
    texts = list(choices) if isinstance(choices, (list, tuple)) else []
    if not 1 <= len(texts) <= MAX_CHOICES or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"is not a list of 1 to {MAX_CHOICES} texts, none of them empty", where=where)
    return GrammarSpec("choice", json.dumps(texts, ensure_ascii=False), field=where)


def response_format_spec(value: Mapping[str, Any]) -> GrammarSpec | None:
    """The grammar of OpenAI's `response_format`; None for text. Schemas are followed whether `strict` or not.

    Raises:
        InputError: the type is unknown or the schema invalid.
    """
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return GrammarSpec("json_object")
    if kind != "json_schema":
        raise InputError(f"{str(kind)[:40]!r} is not text, json_object or json_schema", where="response_format.type")
    named = value.get("json_schema")
    if not isinstance(named, Mapping):
        raise InputError("is not an object with `name` and `schema`", where="response_format.json_schema")
    # OpenAI's default is any object.
    schema = named.get("schema")
    return GrammarSpec("json_object") if schema is None else schema_spec(schema)


def structured_outputs_spec(value: Mapping[str, Any]) -> GrammarSpec:
    """The grammar of vLLM's `structured_outputs`: one of json, json_object, regex, choice and grammar (Lark).

    Raises:
        InputError: none or several are given, or the one given is invalid.
    """
    given = [name for name, item in value.items() if item is not None and item is not False]
    if len(given) != 1 or given[0] not in ("json", "json_object", "regex", "choice", "grammar"):
        known = "json, json_object, regex, choice and grammar"
        found = ", ".join(given)[:80] or "none"
        raise InputError(f"takes exactly one of {known} (found {found})", where="structured_outputs")
    (name,) = given
    where, item = f"structured_outputs.{name}", value[name]
    if name == "json_object":
        return GrammarSpec("json_object", field=where)
    if name == "json":
        return schema_spec(_parsed(item, where), where)
    if name == "choice":
        return choice_spec(item, where)
    if not isinstance(item, str):
        raise InputError("is not a text", where=where)
    return GrammarSpec("regex" if name == "regex" else "grammar", item, field=where)


def _parsed(item: Any, where: str) -> Any:
    """A schema given as text or as an object."""
    if not isinstance(item, str):
        return item
    try:
        return json.loads(item)
    except (ValueError, RecursionError):
        raise InputError("is not JSON", where=where) from None


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise InputError(f"is nested more than {MAX_DEPTH} deep", where=where)


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, (list, tuple)) else ()


def _most_repeats(text: str) -> float:
    """The largest count in patterns such as a{2,500} or, in Lark, a~500; digits beyond ten count as infinite."""
    counts = (count for found in _REPEATS.findall(text) for count in found if count)
    return max((int(count) if len(count) <= 10 else math.inf for count in counts), default=0)


def compiler_source(spec: GrammarSpec) -> str:
    """The grammar in llguidance's JSON form, a list of grammars of which the first is the start."""
    body = f"{OPTIONS}\n{_body(spec)}"
    if not spec.thinking:
        return json.dumps({"grammars": [{"lark_grammar": body}]})
    start = f"{OPTIONS}\nstart: THOUGHT </longcat_think> BREAK @body\nTHOUGHT: /(?s:.*)/\nBREAK: /\\n{{0,2}}/"
    return json.dumps({"grammars": [{"lark_grammar": start}, {"name": "body", "lark_grammar": body}]})


def _body(spec: GrammarSpec) -> str:
    if spec.kind == "json_object":
        return f"start: {_json_rule({'type': 'object'})}"
    if spec.kind == "json_schema":
        return f"start: {_json_rule(json.loads(spec.text))}"
    if spec.kind == "regex":
        return f"start: {_regex(spec.text)}"
    if spec.kind == "choice":
        return f"start: {_regex('|'.join(map(re.escape, json.loads(spec.text))))}"
    if spec.kind == "tools":
        return tools_grammar(json.loads(spec.text))
    return spec.text


def _regex(pattern: str) -> str:
    """A pattern between slashes: those within and line breaks are escaped."""
    escaped = re.sub(r"\\.|/|\n", lambda found: _ESCAPES.get(found.group(), found.group()), pattern, flags=re.DOTALL)
    return f"/{escaped}/"


_ESCAPES = {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}


def tools_grammar(rules: Mapping[str, Any]) -> str:
    """Lark grammar of calls in LongCat's format, from the rules of `tools.tool_plan`.

    `functions`: names and schemas; `several`: more than one call; `free`: any text may stand around them; `answer`: the
    schema of an answer instead of calls, or None.
    """
    several = rules["several"]
    if rules["free"]:
        lines = ["start: (TEXT? call)* TEXT?" if several else "start: TEXT? (call TEXT?)?", "TEXT: /(?s:.+)/"]
    else:
        calls = "call+" if several else "call"
        lines = [f"start: {calls}" if rules["answer"] is None else f"start: {calls} | answer"]
    if rules["answer"] is not None:
        lines.append(f"answer: {_json_rule(rules['answer'])}")
    names = [f"f{number}" for number in range(len(rules["functions"]))]
    lines.append(rf'call: <longcat_tool_call> "\n" ({" | ".join(names)}) "\n" </longcat_tool_call>')
    for name, function in zip(names, rules["functions"], strict=True):
        head = json.dumps(f'{{"name": {json.dumps(function["name"])}, "arguments": ')
        lines += [f'{name}: {head} {name}_arguments "}}"', f"{name}_arguments: {_json_rule(function['parameters'])}"]
    return "\n".join(lines)


def _json_rule(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": JSON_STYLE})
