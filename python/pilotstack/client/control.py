"""What a driver asks about its own node and about names, for anyio and blocking alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pilotstack.client import _frames as f
from pilotstack.errors import InternalError, InvalidArgument
from pilotstack.types import Address, ConnectionInfo, Info, PeerInfo, Resolved

if TYPE_CHECKING:
    from collections.abc import Mapping


def name_of(name: str) -> bytes:
    """A hostname to look up."""
    return f.text(name, "hostname", f.MAX_NAME)


def new_name(name: str) -> bytes:
    """A hostname to take, or none."""
    return f.text(name, "hostname", f.MAX_NAME, may_be_empty=True)


def visibility(public: bool) -> bytes:
    """A payload."""
    if not isinstance(public, bool):
        raise InvalidArgument(f"public is True or False, not {public!r}")
    return bytes((public,))


def info_of(reply: Mapping[str, Any]) -> Info:
    """The daemon's state in a reply."""
    try:
        return Info.from_json(reply)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InternalError("the daemon sent a state that makes no sense") from error


def resolved(name: str, row: Mapping[str, Any]) -> Resolved:
    """What a hostname stands for, in a reply."""
    try:
        address = Address.parse(str(row["address"]))
        return Resolved(name, int(row["node_id"]), address, bool(row.get("public")))
    except (KeyError, TypeError, ValueError) as error:
        raise InternalError("the daemon sent an address that makes no sense") from error


class ControlCalls(ABC):
    """The asynchronous driver's calls."""

    @abstractmethod
    async def call(self, command: int, payload: bytes = b"") -> dict[str, Any]:
        """Asks the control plane something."""

    async def info(self) -> Info:
        """The daemon's state."""
        return info_of(await self.call(f.INFO))

    async def peers(self) -> tuple[PeerInfo, ...]:
        """Nodes that the daemon has tunnels to."""
        return (await self.info()).peer_list

    async def connections(self) -> tuple[ConnectionInfo, ...]:
        """The daemon's connections."""
        return (await self.info()).conn_list

    async def resolve(self, name: str) -> Resolved:
        """What a hostname stands for.

        Raises:
            InvalidArgument: it is empty or too long.
            NotFound: nobody has it.
            ConnectionFailed: the registry cannot be asked.
        """
        return resolved(name, await self.call(f.RESOLVE_HOSTNAME, name_of(name)))

    async def set_hostname(self, name: str) -> None:
        """Takes a name; an empty one gives it up.

        Raises:
            AlreadyExists: another node has it.
        """
        await self.call(f.SET_HOSTNAME, new_name(name))

    async def set_visibility(self, *, public: bool) -> None:
        """Lets everybody reach this node, or only those it trusts."""
        await self.call(f.SET_VISIBILITY, visibility(public))

    async def deregister(self) -> None:
        """Takes this node off the network until it is registered again: see :meth:`register`."""
        await self.call(f.DEREGISTER)


class BlockingControlCalls(ABC):
    """The blocking driver's calls; see :class:`ControlCalls` for arguments and errors."""

    @abstractmethod
    def call(self, command: int, payload: bytes = b"") -> dict[str, Any]:
        """Asks the control plane something."""

    def info(self) -> Info:
        """The daemon's state."""
        return info_of(self.call(f.INFO))

    def peers(self) -> tuple[PeerInfo, ...]:
        """Nodes that the daemon has tunnels to."""
        return self.info().peer_list

    def connections(self) -> tuple[ConnectionInfo, ...]:
        """The daemon's connections."""
        return self.info().conn_list

    def resolve(self, name: str) -> Resolved:
        """What a hostname stands for."""
        return resolved(name, self.call(f.RESOLVE_HOSTNAME, name_of(name)))

    def set_hostname(self, name: str) -> None:
        """Takes a name; an empty one gives it up."""
        self.call(f.SET_HOSTNAME, new_name(name))

    def set_visibility(self, *, public: bool) -> None:
        """Lets everybody reach this node, or only those it trusts."""
        self.call(f.SET_VISIBILITY, visibility(public))

    def deregister(self) -> None:
        """Takes this node off the network until it is registered again."""
        self.call(f.DEREGISTER)
