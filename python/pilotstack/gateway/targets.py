"""What programs call an agent when they ask a proxy for it: a name, or an IP of the gateway.

Names belong to the overlay: one with dots is refused unless it ends in ``.pilot``, so that names
of the internet, which browsers ask for unasked, are not told to the registry.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from pilotstack.errors import InvalidArgument, NotFound
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from pilotstack.gateway.mapping import Mapping

#: Ending of the overlay's names in programs that expect one.
SUFFIX: Final = ".pilot"
#: Characters of a name that is looked at.
_MAX_NAME: Final = 255


def target_of(host: str, port: int, mapping: Mapping) -> tuple[Address | str, int]:
    """The agent that is meant.

    Raises:
        NotFound: an IP without a mapping, or a name of the internet.
        InvalidArgument: neither a name nor an IP.
    """
    text = host[: _MAX_NAME + 1].removeprefix("[").removesuffix("]").removesuffix(".").lower()
    if not text or len(text) > _MAX_NAME or not text.isascii() or not text.isprintable():
        raise InvalidArgument(
            f"not a name: {host[:100]!r}", hint="agents are named as in http://agent-b/"
        )
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return _named(text), port
    mapped = mapping.of_ip(ip)
    if mapped is None:
        raise NotFound(f"no agent is mapped to {ip}", hint="see: pilotctl gateway list")
    return mapped.address, port


def _named(text: str) -> Address | str:
    name = text.removesuffix(SUFFIX)
    found = parse_host(name)
    if isinstance(found, str) and "." in text and name == text:
        raise NotFound(
            f"{text!r} is not a name of the overlay",
            hint=f"agents have names without dots, or that end in {SUFFIX}",
        )
    return found
