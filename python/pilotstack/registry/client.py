"""The registry's client: one connection, reconnected when it breaks, requests in order."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc

from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PilotError,
)
from pilotstack.registry import messages
from pilotstack.types import Address

if TYPE_CHECKING:
    from pilotstack.registry.messages import Message

#: Seconds for a connection and for each reply.
TIMEOUT = 5.0
_READ = 1 << 16


class Signer(Protocol):
    """An Ed25519 identity."""

    @property
    def public_key(self) -> bytes:
        """32 octets."""

    def sign(self, message: bytes) -> bytes:
        """64 octets."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry gave us."""

    node_id: int
    address: Address
    hostname: str
    hostname_error: str


@dataclass(frozen=True, slots=True)
class Record:
    """A node as the registry shows it; ``endpoint`` is empty if it may not be told."""

    node_id: int
    public_key: bytes
    public: bool
    hostname: str
    endpoint: str


def error_of(text: str) -> PilotError:
    """The error for a refusal of the registry."""
    if "not found" in text:
        return NotFound(text)
    if "already" in text:
        return AlreadyExists(text, hint="choose another name")
    if "private" in text:
        return PermissionDenied(text, hint="the node must be public or trust you")
    if "denied" in text or "signature" in text:
        return PermissionDenied(text)
    if "invalid" in text or "require" in text:
        return InvalidArgument(text)
    return ConnectionFailed(f"registry: {text}")


class RegistryClient:
    """Talks to one registry on behalf of one identity.

    Every method raises :exc:`ConnectionFailed` when the registry cannot be reached, and the error
    of :func:`error_of` when it refuses.

    Args:
        host: the registry's host.
        port: its port.
        signer: the identity that signs requests; only lookups work without one.
    """

    def __init__(self, host: str, port: int, signer: Signer | None = None) -> None:
        self._host = host
        self._port = port
        self._signer = signer
        self._stream: anyio.abc.ByteStream | None = None
        self._framer = messages.Framer()
        self._lock = anyio.Lock()
        #: Our id, once registered.
        self.node_id = 0

    async def aclose(self) -> None:
        """Closes the connection; the next request opens another."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await anyio.aclose_forcefully(stream)

    async def request(self, message: Message) -> Message:
        """Sends one request and returns its reply. A broken connection is replaced once."""
        async with self._lock:
            is_fresh = self._stream is None
            try:
                try:
                    return self._check(await self._exchange(message))
                except (
                    OSError,
                    anyio.EndOfStream,
                    anyio.BrokenResourceError,
                    anyio.ClosedResourceError,
                ):
                    await self.aclose()
                    if is_fresh:
                        raise
                return self._check(await self._exchange(message))
            except PilotError:
                raise
            except (
                OSError,
                anyio.EndOfStream,
                anyio.BrokenResourceError,
                messages.ProtocolError,
            ) as error:
                await self.aclose()
                raise ConnectionFailed(
                    f"the registry at {self._host}:{self._port} does not answer",
                    hint="check that it runs and that --registry names it",
                ) from error
            except BaseException:
                # Whoever asks next must not get this answer.
                with anyio.CancelScope(shield=True):
                    await self.aclose()
                raise

    async def _exchange(self, message: Message) -> Message:
        with anyio.fail_after(TIMEOUT):
            if self._stream is None:
                self._framer = messages.Framer()
                self._stream = await anyio.connect_tcp(self._host, self._port)
            await self._stream.send(messages.encode(message))
            while (body := self._framer.next_body()) is None:
                self._framer.feed(await self._stream.receive(_READ))
        return messages.decode(body)

    @staticmethod
    def _check(reply: Message) -> Message:
        if "error" in reply:
            raise error_of(str(reply["error"]))
        return reply

    def _sign(self, challenge: str) -> str:
        if self._signer is None:
            raise PermissionDenied("this request needs an identity")
        return messages.encode_base64(self._signer.sign(challenge.encode()))

    async def register(
        self, listen_addr: str, *, hostname: str = "", owner: str = "", version: str = ""
    ) -> Registration:
        """Registers our key; a known key keeps its id."""
        if self._signer is None:
            raise PermissionDenied("this request needs an identity")
        key = messages.encode_base64(self._signer.public_key)
        reply = await self.request(
            {
                "type": "register",
                "public_key": key,
                "listen_addr": listen_addr,
                "hostname": hostname,
                "owner": owner,
                "version": version,
                "signature": self._sign(f"register:{listen_addr}:{key}"),
            }
        )
        self.node_id = messages.number(reply, "node_id")
        return Registration(
            node_id=self.node_id,
            address=Address.parse(messages.text(reply, "address")),
            hostname=messages.text(reply, "hostname"),
            hostname_error=messages.text(reply, "hostname_error"),
        )

    async def heartbeat(self) -> None:
        """Says that we are alive."""
        await self._about_us("heartbeat")

    async def deregister(self) -> Message:
        """Gives up the registration; the id stays bound to our key."""
        return await self._about_us("deregister")

    async def set_hostname(self, hostname: str) -> Message:
        """Takes a name, or gives it up when empty."""
        return await self._about_us("set_hostname", hostname=hostname)

    async def set_visibility(self, *, public: bool) -> Message:
        """Lets everybody know our endpoint, or nobody without trust."""
        return await self._about_us("set_visibility", public=public)

    async def _about_us(self, kind: str, **members: object) -> Message:
        signature = self._sign(f"{kind}:{self.node_id}")
        return await self.request(
            {"type": kind, "node_id": self.node_id, "signature": signature, **members}
        )

    async def lookup(self, node_id: int) -> Message:
        """Everything about a node but a private one's endpoint."""
        return await self.request({"type": "lookup", "node_id": node_id})

    async def resolve_hostname(self, hostname: str) -> Message:
        """The id behind a name."""
        return await self.request(
            {"type": "resolve_hostname", "hostname": hostname, "requester_id": self.node_id}
        )

    async def record(self, node_id: int) -> Record:
        """Key and endpoint of a node, for a tunnel."""
        found = await self.lookup(node_id)
        endpoint = messages.text(found, "real_addr")
        if not endpoint and self._signer is not None:
            with suppress(PermissionDenied):
                resolved = await self.request(
                    {
                        "type": "resolve",
                        "node_id": node_id,
                        "requester_id": self.node_id,
                        "signature": self._sign(f"resolve:{self.node_id}:{node_id}"),
                    }
                )
                endpoint = messages.text(resolved, "real_addr")
        try:
            key = messages.decode_base64(messages.text(found, "public_key"), messages.KEY_LEN)
        except ValueError as error:
            raise ConnectionFailed(f"registry: unusable key of node {node_id}") from error
        return Record(
            node_id=node_id,
            public_key=key,
            public=messages.flag(found, "public"),
            hostname=messages.text(found, "hostname"),
            endpoint=endpoint,
        )
