"""Error for an incomplete installation."""

from __future__ import annotations


def broken_installation(error: Exception) -> str:
    """One-line error for a module that is missing or belongs to another distribution."""
    what = " ".join(str(error).split())
    return f"the installation is broken: {what} (run `longcat doctor` for details, or reinstall longcat-cli)"
