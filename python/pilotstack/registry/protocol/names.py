"""Hostnames of nodes and names of networks."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pilotstack.registry.protocol.errors import Code

#: Bytes of a name.
MAX_NAME: Final = 63
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_RESERVED_HOSTNAMES: Final = frozenset({"localhost", "backbone", "broadcast"})
_RESERVED_NETWORKS: Final = frozenset({"backbone"})


class Problem(NamedTuple):
    """Why a name cannot be used."""

    text: str
    code: Code


def check_hostname(name: str) -> str:
    """Why a hostname cannot be used, or an empty string."""
    problem = hostname_problem(name)
    return problem.text if problem else ""


def hostname_problem(name: str) -> Problem | None:
    """Why a hostname cannot be used."""
    return _problem("hostname", name, _RESERVED_HOSTNAMES)


def network_name_problem(name: str) -> Problem | None:
    """Why a network cannot have this name."""
    if not name:
        return Problem("network name required", Code.INVALID)
    return _problem("network name", name, _RESERVED_NETWORKS)


def _problem(what: str, name: str, reserved: frozenset[str]) -> Problem | None:
    if len(name.encode()) > MAX_NAME:
        return Problem(f"{what} too long (max {MAX_NAME} chars)", Code.INVALID)
    if not _NAME.fullmatch(name):
        text = f"{what} must be lowercase alphanumeric with hyphens, start/end with alphanumeric"
        return Problem(text, Code.INVALID_NAME)
    return Problem(f'{what} "{name}" is reserved', Code.INVALID) if name in reserved else None
