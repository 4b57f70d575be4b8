"""The error for a library that is not installed."""

from __future__ import annotations


def missing(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """What to raise when the library of an extra is not there."""
    return ModuleNotFoundError(
        f"{error.name} is not installed; install it with: pip install 'pilotstack[{extra}]'",
        name=error.name,
    )
