"""Registry processes, and raw clients."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from pilotstack.daemon.identity import Identity
from pilotstack.registry.client import RegistryClient, parse_addresses
from pilotstack.registry.protocol import framing, values
from pilotstack.testing import Process

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from pilotstack.registry.protocol.tls import TlsTrust

TOKEN = "replication secret"


def host_port(address: str) -> tuple[str, int]:
    """An address as sockets take it."""
    host, _, port = address.rpartition(":")
    return host, int(port)


class Registries:
    """Registry processes with their stores in one directory; a context manager that ends them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, Process] = {}
        self._addresses: dict[str, str] = {}
        self._clients: list[RegistryClient] = []

    def start(self, name: str, *flags: str, prefix: Sequence[str] = ()) -> str:
        """Starts a registry and returns its address; a second time on the same port and store."""
        process = Process(
            "registry",
            [
                *("--registry-addr", self._addresses.get(name, "127.0.0.1:0")),
                *("--store", str(self.directory / f"{name}.json"), *flags),
            ],
            self.directory / f"{name}.log",
            prefix=prefix,
        )
        self.processes[name] = process
        address: str = process.ready["registry"]
        self._addresses[name] = address
        return address

    def start_primary(self, name: str = "primary", *flags: str) -> str:
        """A registry that can be followed."""
        return self.start(name, "--replication-token", TOKEN, *flags)

    def start_standby(self, primary: str, name: str = "standby", *flags: str) -> str:
        """A registry that follows another."""
        return self.start(name, "--standby", primary, "--replication-token", TOKEN, *flags)

    def client(
        self, *addresses: str, identity: Identity | None = None, trust: TlsTrust | None = None
    ) -> RegistryClient:
        """A client with an identity of its own, closed by :meth:`aclose`."""
        client = RegistryClient(
            parse_addresses(addresses), identity or Identity.generate(), tls=trust
        )
        self._clients.append(client)
        return client

    async def aclose(self) -> None:
        """Closes the clients."""
        for client in self._clients:
            await client.aclose()

    def log_of(self, name: str) -> str:
        """What a registry has logged."""
        return (self.directory / f"{name}.log").read_text()

    def __enter__(self) -> Registries:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes.values():
            if process.is_running:
                process.kill()


class Raw:
    """A blocking connection that sends any bytes."""

    def __init__(self, address: str) -> None:
        self.socket = socket.create_connection(host_port(address), timeout=30)
        self._framer = framing.Framer(64 << 20)

    def send(self, request: object) -> None:
        """Sends one frame."""
        body = json.dumps(request).encode()
        self.socket.sendall(len(body).to_bytes(4) + body)

    def receive(self) -> dict[str, Any]:
        """The next frame; :exc:`EOFError` at the end."""
        while (body := self._framer.next_body()) is None:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._framer.feed(data)
        return framing.decode(body)

    def ask(self, request: object) -> dict[str, Any]:
        """Sends one frame and returns the next."""
        self.send(request)
        return self.receive()

    def is_closed(self) -> bool:
        """Waits for the end of the connection."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()


def signed(identity: Identity, challenge: str, **members: object) -> dict[str, object]:
    """A request with its signature."""
    signature = values.encode_base64(identity.sign(challenge.encode()))
    return {**members, "signature": signature}
