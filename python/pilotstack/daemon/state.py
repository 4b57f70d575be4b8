"""What a node is and wants to be: the state that the daemon's parts share.

Only :class:`~pilotstack.daemon.registrar.Registrar` changes it, and
:class:`~pilotstack.daemon.port_mapping.PortMappings` what the router maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pilotstack.types import Address

if TYPE_CHECKING:
    from pilotstack.daemon.identity import Identity

#: The network that every node is in.
BACKBONE: Final = 0
#: The address of a node that is not registered yet.
_NOWHERE: Final = Address(BACKBONE, 0)


@dataclass(frozen=True, slots=True)
class PortMapping:
    """What a router maps to the tunnel's port, or why it maps nothing."""

    #: ``pcp``, ``nat-pmp`` or ``upnp``; empty if nothing is mapped.
    protocol: str = ""
    #: IPv4 address and port on the router; empty if nothing is mapped.
    external: str = ""
    #: End of the lease in seconds since 1970, unless it is renewed; 0 if it does not end.
    expires: float = 0.0
    #: Why nothing is mapped.
    error: str = ""


@dataclass(slots=True)
class NodeState:
    """One node, as the registry should know it."""

    identity: Identity
    hostname: str = ""
    #: Contact that the registry keeps.
    owner: str = ""
    #: Everybody may reach this node.
    public: bool = False
    #: Nothing of it shall be left at the registry when it stops.
    is_ephemeral: bool = False
    #: 0 until it is registered.
    node_id: int = 0
    address: Address = _NOWHERE
    #: Why the registry did not grant the hostname.
    hostname_error: str = ""
    #: What this node said it can be found by, for a registry that forgot it.
    tags: tuple[str, ...] = ()
    #: Networks that it is in, the backbone included.
    networks: frozenset[int] = frozenset()
    #: The registry should know it; not so after ``deregister``.
    is_registered: bool = False
    #: What the router maps to the tunnel's port.
    port_mapping: PortMapping = PortMapping(error="no router was asked yet")

    @property
    def memberships(self) -> list[int]:
        """Networks that it is in, without the backbone."""
        return sorted(self.networks - {BACKBONE})
