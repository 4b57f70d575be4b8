"""BIND's ``dig``, as a person types it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What ``dig`` understood.

    Args:
        status: ``NOERROR``, ``NXDOMAIN`` and so on.
        flags: of the header.
        answers: rows of the answer: name, type, data.
        authority: types of the authority section.
    """

    status: str
    flags: frozenset[str]
    answers: tuple[tuple[str, str, str], ...]
    authority: tuple[str, ...]


def dig(port: int, *arguments: str) -> Answer:
    """Asks a server on this host, once."""
    command = ("dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=8", "+norecurse")
    shown = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=30
    ).stdout
    header = re.search(r"status: (\w+), id", shown)
    flags = re.search(r"flags: ([a-z ]*);", shown)
    assert header, shown
    assert flags, shown
    answers = tuple(
        (row[0], row[3], " ".join(row[4:])) for row in _rows(shown, "ANSWER") if len(row) > 4
    )
    authority = tuple(row[3] for row in _rows(shown, "AUTHORITY") if len(row) > 4)
    return Answer(header[1], frozenset(flags[1].split()), answers, authority)


def _rows(shown: str, section: str) -> list[list[str]]:
    found = re.search(rf";; {section} SECTION:\n(.*?)\n\n", shown, re.DOTALL)
    return [line.split() for line in found[1].splitlines()] if found else []
