"""The daemon in a thread of a program's process, for :class:`pilotstack.Node`.

The control plane has an event loop of its own, so that a program whose loop is busy, or that has
none, still renews its registration and lets peers in. The datapath is the core's thread, as ever.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from pilotstack import wellknown
from pilotstack._background import Background
from pilotstack.daemon.config import DaemonConfig
from pilotstack.daemon.in_thread import InThread
from pilotstack.daemon.ready import Ready

if TYPE_CHECKING:
    import os

    import anyio

    from pilotstack.registry.client import TlsTrust
    from pilotstack.types import Congestion


class Settings(TypedDict, total=False):
    """Settings of a node; their names and meanings are those of the flags of ``pilot-daemon``."""

    #: ``host:port`` of the registry; several, with commas between them.
    registry: str
    #: How the registry is recognized over TLS; plain TCP without.
    registry_trust: TlsTrust | None
    #: ``host:port`` of beacons, in the order of preference, with commas between them.
    beacon: str
    #: File of the node's key, made if missing. Without one, the key lives as long as the node.
    identity: str | os.PathLike[str] | None
    #: Name to take.
    hostname: str
    #: Contact that the registry keeps.
    owner: str
    #: Address and port of the tunnel's UDP socket.
    listen: str
    #: Public ``host:port``, instead of what beacons see.
    endpoint: str
    #: Everybody may reach this node.
    public: bool
    #: Nothing of the node is left at the registry when it stops.
    ephemeral: bool
    #: Peers come through a beacon, and nobody is told where this node is.
    relay_only: bool
    #: Port 7 echoes. Services of this kind are off unless asked for.
    has_echo: bool
    #: Port 1 tells peers what this node offers.
    has_status: bool
    #: Messages and files are taken on port 1001.
    has_data_exchange: bool
    #: Port 1002 is a broker of events.
    has_event_stream: bool
    #: Folder of what peers send, and GiB that they may store there.
    files: str | os.PathLike[str] | None
    files_quota: float
    #: Names are served on port 53.
    is_nameserver: bool
    #: Where names are asked for that the registry does not know; nowhere if empty.
    names: str
    #: The router is asked to map the tunnel's port.
    may_map_port: bool
    #: Congestion controller of streams that ask for none.
    congestion: Congestion
    #: The registry's admin token, for managing networks.
    admin_token: str
    #: Folder for a record of every connection.
    qlog: str | os.PathLike[str] | None
    #: Seconds between heartbeats.
    keepalive: float


#: A library opens no ports that nobody asked for.
_BUILTINS: Final = tuple(each.name for each in fields(DaemonConfig) if each.name.startswith("has_"))


def config_of(settings: Settings) -> DaemonConfig:
    """The daemon's configuration for a node.

    Raises:
        TypeError: there is no such setting.
    """
    values: dict[str, Any] = {
        "registry": wellknown.LOCAL_REGISTRY,
        "beacon": wellknown.LOCAL_BEACON,
        "listen": ":0",
        **dict.fromkeys(_BUILTINS, False),
        **settings,
    }
    for name in ("identity", "qlog", "files"):
        if values.get(name) is not None:
            values[name] = Path(values[name])
    return DaemonConfig(**values)


class Engine(Background[Ready]):
    """A daemon in a thread. Starting it raises what starting a daemon does:

    Raises:
        ConnectionFailed: the registry does not answer.
        InvalidArgument: a setting makes no sense.
        AlreadyExists: another process has the identity.

    Args:
        config: the daemon's settings; that of its socket does not matter.
    """

    def __init__(self, config: DaemonConfig) -> None:
        super().__init__("pilot-node")
        self._config = config
        #: Where drivers find it.
        self.place = InThread()

    async def _serve(self, stopping: anyio.Event) -> None:
        # Imported in this thread: the caller's event loop goes on meanwhile.
        from pilotstack.daemon.supervisor import Daemon

        await Daemon(self._config, self._serves, embedded=self.place).run(stopping)
