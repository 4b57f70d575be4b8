"""Hostnames of nodes and names of networks."""

from __future__ import annotations

import re
from typing import Final

#: Bytes of a name.
MAX_NAME: Final = 63
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_RESERVED_HOSTNAMES: Final = frozenset({"localhost", "backbone", "broadcast"})
_RESERVED_NETWORKS: Final = frozenset({"backbone"})


def check_hostname(name: str) -> str:
    """Why a hostname cannot be used, or an empty string."""
    return _check_name("hostname", name, _RESERVED_HOSTNAMES)


def check_network_name(name: str) -> str:
    """Why a network cannot have this name, or an empty string."""
    if not name:
        return "network name required"
    return _check_name("network name", name, _RESERVED_NETWORKS)


def _check_name(what: str, name: str, reserved: frozenset[str]) -> str:
    if len(name.encode()) > MAX_NAME:
        return f"{what} too long (max {MAX_NAME} chars)"
    if not _NAME.fullmatch(name):
        return f"{what} must be lowercase alphanumeric with hyphens, start/end with alphanumeric"
    return f'{what} "{name}" is reserved' if name in reserved else ""
