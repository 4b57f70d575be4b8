"""The whitepaper's single-dash long flags (``-log-level debug``) beside ``--log-level``."""

from __future__ import annotations

import re

_LONG = re.compile(r"-[A-Za-z][A-Za-z0-9-]+(=.*)?", re.DOTALL)


def normalize(arguments: list[str]) -> list[str]:
    """Gives every single-dash flag of more than one letter its second dash; what follows ``--``
    is left alone."""
    normal: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return normal + arguments[position:]
        normal.append(f"-{argument}" if _LONG.fullmatch(argument) else argument)
    return normal
