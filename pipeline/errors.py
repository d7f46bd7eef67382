"""Errors shown to users: what is wrong, where, what to do next, and the exit code of the command."""

from __future__ import annotations


class Told(BaseException):
    """What is printed as one line instead of a traceback: what, where, and what to do next."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.what}{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickling with keyword fields, since errors are sent from engine workers."""
        return (_rebuild, (type(self), self.what, self.where, self.hint))


def _rebuild(kind: type[Told], what: str, where: str | None, hint: str | None) -> Told:
    return kind(what, where=where, hint=hint)


class LongcatError(Told, Exception):
    """Base of every error."""


class UsageError(LongcatError):
    """Invalid command line."""

    exit_code = 2


class ConfigError(LongcatError):
    """A configuration or recipe has an unknown key, a wrong type or a value out of range."""

    exit_code = 3


class InputError(LongcatError):
    """External data is missing or unusable."""

    exit_code = 3


class NothingLeftError(LongcatError):
    """A stage succeeded and published an artifact without documents."""

    exit_code = 3


class MissingArtifactError(LongcatError):
    """A reference does not match an artifact in the store."""

    exit_code = 4


class IntegrityError(LongcatError):
    """Bytes on disk do not match the manifest or the format."""

    exit_code = 5


class NewerArtifactError(IntegrityError):
    """Written by a newer version of longcat; neither used nor changed by this one."""


class MachineError(LongcatError):
    """The machine failed (disk, memory, a killed process); the data may be intact."""


class InterruptedRunError(Told):
    """SIGINT or SIGTERM arrived; the hint says whether the next run resumes.

    No `Exception`, as KeyboardInterrupt is none: it may be raised anywhere, and code that takes any error of a library
    for a fault of the data must not take it.
    """

    exit_code = 130


class BusyError(LongcatError):
    """Another process is working on the same artifact."""
