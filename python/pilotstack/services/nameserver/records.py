"""Records of the nameserver. Immutable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from pilotstack.types import Address  # noqa: TC001 - dataclasses evaluate it for tools

__all__ = [
    "KINDS",
    "Kind",
    "NameRecord",
    "NetworkRecord",
    "Record",
    "ServiceRecord",
    "is_name",
    "normal",
]

Kind = Literal["A", "N", "S"]
KINDS: Final[tuple[Kind, ...]] = ("A", "N", "S")

#: Bytes of a name (RFC 1035, 2.3.4).
MAX_NAME: Final = 253
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def normal(name: str) -> str:
    """The form in which names are kept and compared: in lower case, without the last dot."""
    return name.lower().removesuffix(".")


def is_name(name: str) -> bool:
    """Whether a normal name can be registered: labels as in RFC 1035, and underscores. A number
    would be taken for a node."""
    return len(name) <= MAX_NAME and bool(_NAME.fullmatch(name)) and not name.isdecimal()


@dataclass(frozen=True, slots=True)
class NameRecord:
    """A: the address behind a name."""

    name: str
    address: Address


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """N: the network behind a name."""

    name: str
    network: int


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """S: a service that a node offers in a network."""

    name: str
    address: Address
    network: int
    port: int


Record = NameRecord | NetworkRecord | ServiceRecord
