"""An option that takes one value is refused when it is given twice; by itself Click keeps the last and says nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def refuse_repeats(command: Any) -> None:
    """Make `command` refuse a second value of every option that is not repeatable.

    Raises, when it is called:
        UsageError: an option is given twice; names it.
    """
    make = command.make_parser

    def make_parser(ctx: Any) -> Any:
        parser = make(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            values, rest, order = parse(args)
            if not ctx.resilient_parsing:  # the shell asks for completions of an unfinished line
                _check(order)
            return values, rest, order

        parser.parse_args = parse_args
        return parser

    command.make_parser = make_parser


def _check(order: Iterable[Any]) -> None:
    """`order` holds the parameter of every value on the command line."""
    from longcat.pipeline.errors import UsageError

    given = Counter(param for param in order if param.param_type_name == "option")
    for param, count in given.items():
        if count > 1 and not (param.multiple or param.count or param.is_eager):
            flags = "/".join(max(flags, key=len) for flags in (param.opts, param.secondary_opts) if flags)
            raise UsageError(f"{flags} is given {count} times", hint="it can be given once")


def refuse_both_ways(given: Mapping[str, Any], assigned: Mapping[str, Any], flags: Mapping[str, str]) -> None:
    """Refuse a configuration key given by its option and by `--set`.

    `flags` maps keys to their options.

    Raises:
        UsageError: names both.
    """
    from longcat.pipeline.errors import UsageError

    for key in given:
        if key in assigned:
            raise UsageError(f"{key} is given twice, as {flags.get(key, key)} and as --set", hint="remove one of them")
