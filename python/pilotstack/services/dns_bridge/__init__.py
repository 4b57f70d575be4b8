"""DNS for programs that know nothing of the overlay: ``agent-b.pilot`` is the local IP of an agent
(docs/reference/protocol/services/dns.md).

It needs dnspython, the extra ``dns``.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from pilotstack.errors import Unavailable

if TYPE_CHECKING:
    from pilotstack.services.dns_bridge.server import DnsServer
    from pilotstack.services.dns_bridge.zone import Bridge, Mapping

__all__ = ["Bridge", "DnsServer", "Mapping", "check_available"]


def check_available() -> None:
    """Checks that the library is there.

    Raises:
        Unavailable: it is not installed.
    """
    if importlib.util.find_spec("dns") is None:
        raise Unavailable("DNS needs the package dnspython", hint="pip install 'pilotstack[dns]'")


def __getattr__(name: str) -> object:
    homes = {"DnsServer": "server", "Bridge": "zone", "Mapping": "zone"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_available()
    module = importlib.import_module(f"pilotstack.services.dns_bridge.{homes[name]}")
    found: object = getattr(module, name)
    globals()[name] = found
    return found
