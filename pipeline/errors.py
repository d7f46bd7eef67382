"""Errors a user may meet: what is wrong, where, what to do next, and the exit code the command ends with."""

from __future__ import annotations


class LongcatError(Exception):
    """Base of every error that is told to the user as one line instead of a traceback."""

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
        """Errors cross process borders from engine workers, with their keyword fields."""
        return (_rebuild, (type(self), self.what, self.where, self.hint))


def _rebuild(kind: type[LongcatError], what: str, where: str | None, hint: str | None) -> LongcatError:
    return kind(what, where=where, hint=hint)


class UsageError(LongcatError):
    """The command line itself is wrong."""

    exit_code = 2


class ConfigError(LongcatError):
    """A configuration or recipe has an unknown key, a wrong type or a value out of range."""

    exit_code = 3


class InputError(LongcatError):
    """Data given from outside is missing or cannot be used."""

    exit_code = 3


class NothingLeftError(LongcatError):
    """A stage ended well and its artifact, which is published, holds no document."""

    exit_code = 3


class MissingArtifactError(LongcatError):
    """A reference names no artifact in the store."""

    exit_code = 4


class IntegrityError(LongcatError):
    """Bytes on disk are not what the manifest or the format says."""

    exit_code = 5


class NewerArtifactError(IntegrityError):
    """A newer version of longcat wrote it; this one leaves it alone."""


class MachineError(LongcatError):
    """The machine failed (a disk, the memory, a process that was killed); the data may be well."""


class InterruptedRunError(LongcatError):
    """SIGINT or SIGTERM arrived; the hint says whether the next run takes up what was done."""

    exit_code = 130


class BusyError(LongcatError):
    """Another process works on the same artifact."""
