"""Asks a nameserver on the overlay (docs/reference/protocol/services/names.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import wellknown
from pilotstack.errors import (
    ConnectionFailed,
    ConnectionRefused,
    InvalidArgument,
    NotFound,
    TimedOut,
)
from pilotstack.services.nameserver import codec
from pilotstack.services.nameserver.codec import (
    List,
    Query,
    QueryServices,
    Register,
    Request,
    Unregister,
)
from pilotstack.services.nameserver.records import Kind, ServiceRecord, is_name, normal
from pilotstack.types import Address, SocketAddress, parse_host

if TYPE_CHECKING:
    from pilotstack.client import Driver, Stream
    from pilotstack.services.nameserver.records import Record

__all__ = ["CONVENTIONAL", "HOSTNAME", "Names"]

#: Where a nameserver is by convention: the node with this hostname, or else this address.
HOSTNAME: Final = "nameserver"
CONVENTIONAL: Final = Address(0, 3)
#: Seconds for an answer.
PATIENCE: Final = 10.0
_OTHER: Final = "name another one with --names; pilot-daemon --nameserver starts one"


class Names:
    """A nameserver, asked through a driver. Each request is a stream of its own.

    Args:
        driver: dials.
        server: address, node id or hostname of its node, with a port unless that is 53; without it,
            the node with the hostname ``nameserver``, or else ``0:0000.0000.0003``.
        timeout: seconds for each answer.

    Every method raises :exc:`PilotError` if the nameserver cannot be reached or refuses.
    """

    def __init__(self, driver: Driver, server: str = "", *, timeout: float = PATIENCE) -> None:
        self._driver = driver
        self._server = server
        self._timeout = timeout
        self._found: SocketAddress | None = None

    @property
    def is_found(self) -> bool:
        """Whether it is known where the nameserver is."""
        return self._found is not None

    async def find(self) -> SocketAddress:
        """Where the nameserver is.

        Raises:
            InvalidArgument: the server's name is malformed.
            NotFound: there is no such node.
        """
        if self._found is None:
            host, port = split_server(self._server or HOSTNAME)
            if not isinstance(host, Address):
                try:
                    host = (await self._driver.resolve(host)).address
                except NotFound:
                    if self._server:
                        raise
                    host = CONVENTIONAL
            self._found = SocketAddress(host, port)
        return self._found

    async def resolve(self, name: str) -> Address:
        """The address behind a name.

        Raises:
            NotFound: nobody has the name, or it is in a network that is not ours.
        """
        reply = codec.parse_reply(await self._ask(Query("A", check_name(name))))
        if reply.address is None:
            raise ConnectionFailed("the nameserver's reply has no address", hint=_OTHER)
        return reply.address

    async def network(self, name: str) -> int:
        """The network behind a name.

        Raises:
            NotFound: nobody has the name.
        """
        reply = codec.parse_reply(await self._ask(Query("N", check_name(name))))
        if reply.network is None:
            raise ConnectionFailed("the nameserver's reply has no network", hint=_OTHER)
        return reply.network

    async def services(self, network: int, port: int) -> tuple[ServiceRecord, ...]:
        """Who offers a port in a network."""
        reply = codec.parse_reply(await self._ask(QueryServices(network, port)))
        return tuple(
            ServiceRecord(name, address, network, number)
            for name, address, number in reply.services
        )

    async def register(self, record: Record) -> None:
        """Takes a record for this node, or keeps it for another while.

        Raises:
            AlreadyExists: another node has the name.
            PermissionDenied: the record is not for this node to make.
        """
        check_name(record.name)
        codec.parse_reply(await self._ask(Register(record)))

    async def unregister(self, kind: Kind, name: str, network: int = 0, port: int = 0) -> None:
        """Gives a record of this node up.

        Raises:
            NotFound: there is none.
            PermissionDenied: it is another node's.
            Unavailable: the server lets records expire only.
        """
        request = Unregister(kind, check_name(name), network, port)
        codec.parse_reply(await self._ask(request))

    async def list(self) -> tuple[Record, ...]:
        """The records of this node.

        Raises:
            Unavailable: the server has no lists.
        """
        return codec.parse_records(await self._ask(List()))

    async def _ask(self, request: Request) -> str:
        line = codec.request_line(request).encode()
        reply = bytearray()
        try:
            with anyio.fail_after(self._timeout):
                server = await self.find()
                async with await self._dial(server) as stream:
                    # One write, so that servers that read once have all of it.
                    await stream.send(line + b"\n")
                    async for chunk in stream:
                        reply += chunk
                        if len(reply) > codec.MAX_REPLY:
                            raise ConnectionFailed(
                                "the nameserver's reply is too long", hint=_OTHER
                            )
        except TimeoutError as error:
            raise TimedOut(
                "the nameserver does not answer in time",
                hint="check that its node is there, and lets this one in",
            ) from error
        return reply.decode(errors="replace")

    async def _dial(self, server: SocketAddress) -> Stream:
        try:
            return await self._driver.dial(server, timeout=self._timeout)
        except ConnectionRefused as error:
            raise ConnectionRefused(f"no nameserver serves {server}", hint=_OTHER) from error
        except ConnectionFailed as error:
            raise ConnectionFailed(
                f"the nameserver {server} cannot be reached: {error.message}", hint=_OTHER
            ) from error


def check_name(name: str) -> str:
    """A name in its normal form.

    Raises:
        InvalidArgument: no record can have it.
    """
    found = normal(name)
    if not is_name(found):
        raise InvalidArgument(
            f"not a name: {name!r:.100}",
            hint="names have letters, digits, '-', '_' and '.', and are no numbers",
        )
    return found


def split_server(text: str) -> tuple[Address | str, int]:
    """Host and port of a nameserver.

    Raises:
        InvalidArgument: it is malformed.
    """
    try:
        return parse_host(text), wellknown.NAME_PORT
    except InvalidArgument:
        host, _, digits = text.rpartition(":")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5):
            raise
        port = int(digits)
        if not 0 < port <= 0xFFFF:
            raise
        return parse_host(host), port
