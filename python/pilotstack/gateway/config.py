"""Settings of a gateway, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pilotstack import wellknown
from pilotstack.errors import InvalidArgument
from pilotstack.gateway.mapping import SUBNET

#: Ports of agents that local IPs have, unless others are named.
PORTS: Final = (7, 80, 443, 1000, 1001, 1002, 8080, 8443)
#: Subnet of a gateway without privileges: Linux takes all of 127.0.0.0/8 as its own.
UNPRIVILEGED_SUBNET: Final = "127.64.0.0/16"
#: What is added to ports that are for privileged programs. Browsers refuse some ports below 20,000.
PORT_OFFSET: Final = 20_000
_MAX_PORTS: Final = 64
_FIRST_FREE = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_USUAL_FIRST_FREE: Final = 1024


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Settings of a gateway."""

    agents: tuple[str, ...] = ()
    subnet: str = ""
    ports: tuple[int, ...] = PORTS
    is_unprivileged: bool = False
    #: ``host:port`` of the proxy; none if empty.
    proxy: str = ""
    #: ``host:port`` where DNS is served; nowhere if empty.
    dns: str = ""
    #: ``host:port`` of health and metrics; nowhere if empty.
    http: str = ""
    #: Users of this host who may connect; everybody if empty.
    uids: tuple[int, ...] = ()
    #: Connections at most; what fits into open files unless given.
    limit: int | None = None
    #: The daemon's socket.
    socket: Path | None = None
    control: Path | None = None
    state: Path | None = None
    #: Seconds without a byte after which a connection is reset.
    idle: float | None = None
    home: Path = field(default_factory=wellknown.home)

    @property
    def network(self) -> str:
        """The subnet that applies."""
        return self.subnet or (UNPRIVILEGED_SUBNET if self.is_unprivileged else SUBNET)

    @property
    def control_path(self) -> Path:
        """The control socket."""
        return self.control or default_control(self.home)

    @property
    def state_path(self) -> Path:
        """The file that keeps mappings."""
        return self.state or self.home / "gateway.json"


def default_control(home: Path | None = None) -> Path:
    """Where ``pilotctl gateway`` finds the running gateway unless told otherwise."""
    return (home or wellknown.home()) / "gateway.sock"


def parse_ports(text: str) -> tuple[int, ...]:
    """Ports, separated by commas.

    Raises:
        InvalidArgument: one is none, or there are too many.
    """
    ports = []
    for part in text.split(","):
        digits = part.strip()
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5):
            raise InvalidArgument(f"not a port: {part[:100]!r}", hint="as in --ports 80,443")
        ports.append(int(digits))
    if not all(0 < port <= 0xFFFF for port in ports) or len(ports) > _MAX_PORTS:
        raise InvalidArgument(
            f"1 to {_MAX_PORTS} ports of 1 to 65535, not {text[:100]!r}",
            hint="as in --ports 80,443",
        )
    return tuple(dict.fromkeys(ports))


def first_free_port() -> int:
    """The first port that every program may listen on."""
    try:
        return int(_FIRST_FREE.read_text())
    except (OSError, ValueError):
        return _USUAL_FIRST_FREE


def local_port(port: int, first_free: int | None) -> int:
    """The local port for an agent's port.

    Args:
        first_free: that every program may listen on; ``None`` if all are usable.
    """
    return port if first_free is None or port >= first_free else port + PORT_OFFSET
