"""What kind of NAT a host is behind, as RFC 5780 finds out: from outside, by what passes.

Speaks no protocol of ours. The sockets of both sides belong to this process, so each question has
an answer in order: what has not come before a datagram that was sent later will not come.
"""

from __future__ import annotations

import select
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pilotstack.testing.internet import Behaviour

if TYPE_CHECKING:
    import socket

    from pilotstack.testing.internet import Host

_PORTS = (3478, 3479)
#: Seconds for a datagram between hosts of this machine; nothing else arrives that late.
_PATIENCE = 5.0
Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was observed."""

    mapping: Behaviour
    filtering: Behaviour
    #: Outer ports of four flows of one socket, to two ports of each of two servers.
    ports: tuple[int, int, int, int]
    inner_port: int

    @property
    def is_preserving(self) -> bool:
        """Whether the outer port is the inner one."""
        return set(self.ports) == {self.inner_port}

    @property
    def is_sequential(self) -> bool:
        """Whether each flow got the next port."""
        return all(b - a == 1 for a, b in zip(self.ports, self.ports[1:], strict=False))


class Probe:
    """Two servers with two ports each; a context manager."""

    def __init__(self, first: Host, second: Host) -> None:
        self.hosts = first, second
        self._stack = ExitStack()
        #: Both ports of the first host, then those of the second.
        self.servers: dict[Endpoint, socket.socket] = {}

    def __enter__(self) -> Self:
        for host in self.hosts:
            for port in _PORTS:
                server = self._stack.enter_context(host.socket())
                server.bind((host.ipv4, port))
                server.settimeout(_PATIENCE)
                self.servers[host.ipv4, port] = server
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, host: Host) -> Seen:
        """Finds out what a host is behind."""
        with host.socket() as inner:
            inner.bind((host.ipv4, 0))
            ports = tuple(self.contact(inner, server)[1] for server in self.servers)
            assert len(ports) == 4
            own = inner.getsockname()[1]
        return Seen(_mapping(ports), self._filtering(host), ports, own)

    def contact(self, inner: socket.socket, server: Endpoint) -> Endpoint:
        """Sends a datagram to a server and returns where it came from."""
        inner.sendto(b"hello", server)
        _, outer = self.servers[server].recvfrom(16)
        return str(outer[0]), int(outer[1])

    def answers(self, inner: socket.socket, outer: Endpoint, *servers: Endpoint) -> set[Endpoint]:
        """Which servers' datagrams come in, of which the last server's must."""
        for server in servers:
            self.servers[server].sendto(b"may I?", outer)
        come: set[Endpoint] = set()
        while servers[-1] not in come:
            if not select.select([inner], [], [], _PATIENCE)[0]:
                raise TimeoutError("an answer did not come in")
            host, port = inner.recvfrom(16)[1]
            come.add((host, port))
        return come

    def send(self, server: Endpoint, outer: Endpoint, size: int = 4) -> None:
        """Sends a datagram of this size from a server, whose arrival nobody waits for."""
        self.servers[server].sendto(bytes(size), outer)

    def take(self, server: Endpoint) -> bytes:
        """The datagram that came to a server next."""
        return self.servers[server].recv(65_536)

    def _filtering(self, host: Host) -> Behaviour:
        contacted, other_port, other_host, _ = self.servers
        with host.socket() as inner:
            inner.bind((host.ipv4, 0))
            outer = self.contact(inner, contacted)
            come = self.answers(inner, outer, other_host, other_port, contacted)
        if other_host in come:
            return Behaviour.ENDPOINT_INDEPENDENT
        if other_port in come:
            return Behaviour.ADDRESS_DEPENDENT
        return Behaviour.ADDRESS_AND_PORT_DEPENDENT


def _mapping(ports: tuple[int, ...]) -> Behaviour:
    if len(set(ports)) == 1:
        return Behaviour.ENDPOINT_INDEPENDENT
    if ports[0] == ports[1] and ports[2] == ports[3]:
        return Behaviour.ADDRESS_DEPENDENT
    return Behaviour.ADDRESS_AND_PORT_DEPENDENT
