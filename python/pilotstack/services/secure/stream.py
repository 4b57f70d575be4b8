"""The secure channel as an anyio byte stream (docs/reference/protocol/services/secure.md)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import anyio.lowlevel
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pilotstack.client import PilotAttribute
from pilotstack.client._stream import READ, check_size, view_of
from pilotstack.services.secure import auth
from pilotstack.services.secure.codec import (
    CHUNK,
    KEY_LEN,
    Channel,
    Role,
    SecureError,
    Suite,
    agree,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

    from pilotstack.client import Listener, Stream
    from pilotstack.services.secure.auth import Credentials
    from pilotstack.types import SocketAddress

__all__ = ["SecureAttribute", "SecureStream", "serve", "wrap_client", "wrap_server"]

#: Seconds for the handshake.
PATIENCE: Final = 10.0
#: Frames that are handed over in one write.
_BURST: Final = 4


class SecureAttribute(anyio.TypedAttributeSet):
    """Typed attributes of secure channels, besides those of the stream below."""

    suite: Suite | None = anyio.typed_attribute()
    peer_node: int | None = anyio.typed_attribute()


class SecureStream(anyio.abc.ByteStream):
    """An encrypted stream. Made by :func:`wrap_client` and :func:`wrap_server`.

    ``receive`` raises :exc:`SecureError` for a frame that is not the peer's next one; the channel
    is of no use then. It is not known whether an end of the stream is the peer's own word: a
    protocol to which that matters says itself that it is complete. A ``send`` that was cancelled
    in the middle leaves a part of a frame; nothing can be sent after it.
    """

    def __init__(
        self, stream: anyio.abc.ByteStream, channel: Channel, peer_node: int | None
    ) -> None:
        self._stream = stream
        self._channel = channel
        #: The node that proved its key; ``None`` without authentication.
        self.peer_node = peer_node
        self._text = b""
        self._failure: SecureError | None = None
        self._is_closed = False
        self._is_finished = False
        self._is_reading = False
        self._is_writing = False

    def __repr__(self) -> str:
        return f"<SecureStream over {self._stream!r}>"

    @property
    def suite(self) -> Suite | None:
        """How keys are derived; ``None`` until the first frame decides."""
        return self._channel.suite

    @property
    def has_half_close(self) -> bool:
        """Whether :meth:`send_eof` leaves the reading side open."""
        return bool(getattr(self._stream, "has_half_close", True))

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """:class:`SecureAttribute`, and the attributes of the stream below."""
        return {
            **self._stream.extra_attributes,
            SecureAttribute.suite: lambda: self.suite,
            SecureAttribute.peer_node: lambda: self.peer_node,
        }

    @property
    def remote_address(self) -> SocketAddress:
        """The peer, as the tunnel knows it.

        Raises:
            anyio.TypedAttributeLookupError: the stream below is not of the overlay.
        """
        return self.extra(PilotAttribute.remote_address)

    @property
    def connection_id(self) -> int:
        """The number of the stream below at the daemon.

        Raises:
            anyio.TypedAttributeLookupError: it is not of the overlay.
        """
        return self.extra(PilotAttribute.connection_id)

    def _check(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        if self._failure is not None:
            failure = self._failure
            raise SecureError(failure.message, reason=failure.reason)  # type: ignore[arg-type]

    async def receive(self, max_bytes: int = READ) -> bytes:
        """Between 1 and ``max_bytes`` bytes."""
        check_size(max_bytes)
        if self._is_reading:
            raise anyio.BusyResourceError("reading from")
        self._is_reading = True
        try:
            has_waited = False
            while True:
                self._check()
                if self._text:
                    if not has_waited:
                        await anyio.lowlevel.checkpoint()
                    data, self._text = self._text[:max_bytes], self._text[max_bytes:]
                    return data
                if not self._open_next():
                    await self._receive_more()
                    has_waited = True
        finally:
            self._is_reading = False

    async def receive_frame(self) -> bytes:
        """The text of the next frame, as a whole, for the handshake."""
        while not self._open_next():
            await self._receive_more()
        text, self._text = self._text, b""
        return text

    def _open_next(self) -> bool:
        """Opens the next frame. Returns whether it was there."""
        try:
            text = self._channel.open()
        except SecureError as error:
            self._failure = error
            raise
        if text is None:
            return False
        self._text = text
        return True

    async def _receive_more(self) -> None:
        try:
            self._channel.feed(await self._stream.receive(READ))
        except anyio.EndOfStream:
            if not self._channel.has_part:
                raise
            self._failure = SecureError("the stream ended within a frame", reason="truncated")
            raise self._failure from None

    async def send(self, item: bytes) -> None:
        """Encrypts all bytes and hands them to the stream; waits while its buffers are full."""
        if self._is_writing:
            raise anyio.BusyResourceError("writing to")
        self._is_writing = True
        try:
            view = view_of(item)
            self._check()
            if self._is_finished:
                raise anyio.ClosedResourceError
            if not view:
                await self._stream.send(b"")
            while view:
                await anyio.lowlevel.checkpoint_if_cancelled()
                self._check()
                burst, view = view[: _BURST * CHUNK], view[_BURST * CHUNK :]
                await self._send_sealed(burst)
        finally:
            self._is_writing = False

    async def _send_sealed(self, text: memoryview) -> None:
        frames = [
            self._channel.seal(text[begin : begin + CHUNK]) for begin in range(0, len(text), CHUNK)
        ]
        try:
            await self._stream.send(b"".join(frames))
        except anyio.get_cancelled_exc_class():
            # How much of it was sent, the stream does not tell.
            self._failure = SecureError("a cancelled send left a part of a frame", reason="torn")
            raise

    async def send_eof(self) -> None:
        """Ends our direction after everything sent; reading goes on."""
        if self._is_writing:
            raise anyio.BusyResourceError("writing to")
        await self._stream.send_eof()
        self._is_finished = True

    async def aclose(self) -> None:
        """Closes the stream below."""
        self._is_closed = True
        self._text = b""
        await self._stream.aclose()


async def wrap_client(
    stream: anyio.abc.ByteStream,
    *,
    suite: Suite | None = None,
    credentials: Credentials | None = None,
    timeout: float = PATIENCE,
) -> SecureStream:
    """The channel over a stream that we dialled.

    Args:
        stream: closed with the channel, but not if this fails.
        suite: the server's. Without one, the first frame of the server decides; if we send before,
            it is G1, which servers of ours understand as well.
        credentials: both ends prove their node's keys; the server must expect that. The suite is
            G2 unless given.
        timeout: seconds for the handshake.

    Raises:
        SecureError: there is no agreement in time, or the server is not who it should be.
    """
    return await _wrap(stream, Role.CLIENT, suite, credentials, timeout)


async def wrap_server(
    stream: anyio.abc.ByteStream,
    *,
    suite: Suite | None = None,
    credentials: Credentials | None = None,
    timeout: float = PATIENCE,
) -> SecureStream:
    """The channel over a stream that we accepted. See :func:`wrap_client`."""
    return await _wrap(stream, Role.SERVER, suite, credentials, timeout)


async def serve(
    listener: Listener,
    handler: Callable[[SecureStream], Awaitable[object]],
    *,
    suite: Suite | None = None,
    credentials: Credentials | None = None,
) -> None:
    """Runs ``handler`` for each channel in a task of its own, as :meth:`Listener.serve` does for
    streams. A failed handshake resets its stream."""

    async def wrapped(stream: Stream) -> None:
        await handler(await wrap_server(stream, suite=suite, credentials=credentials))

    await listener.serve(wrapped)


async def _wrap(
    stream: anyio.abc.ByteStream,
    role: Role,
    suite: Suite | None,
    credentials: Credentials | None,
    timeout: float,
) -> SecureStream:
    try:
        with anyio.fail_after(timeout):
            return await _shake_hands(stream, role, suite, credentials)
    except TimeoutError as error:
        raise SecureError(
            "no secure channel in time",
            reason="handshake",
            hint="the peer may expect another mode: both ends authenticate, or none",
        ) from error
    except anyio.EndOfStream as error:
        raise SecureError(
            "the peer ended the handshake",
            reason="handshake",
            hint="it may not speak this protocol on that port, or not accept who we are",
        ) from error


async def _shake_hands(
    stream: anyio.abc.ByteStream,
    role: Role,
    suite: Suite | None,
    credentials: Credentials | None,
) -> SecureStream:
    private = X25519PrivateKey.generate()
    own = private.public_key().public_bytes_raw()
    # The server reads first: one that answers strangers costs them a key.
    if role is Role.CLIENT:
        await stream.send(own)
    theirs = await _read_key(stream)
    shared = agree(private, theirs)
    if role is Role.SERVER:
        await stream.send(own)
    if credentials is None:
        return SecureStream(stream, Channel(role, shared, suite), None)
    # Nodes without HKDF have no authentication.
    channel = SecureStream(stream, Channel(role, shared, suite or Suite.G2), None)
    if role is Role.SERVER:
        await channel.send(credentials.prove(own).encode())
        channel.peer_node = await _authenticate(channel, theirs, credentials)
    else:
        channel.peer_node = await _authenticate(channel, theirs, credentials)
        await channel.send(credentials.prove(own).encode())
    return channel


async def _read_key(stream: anyio.abc.ByteStream) -> bytes:
    """The peer's key, and no byte more."""
    key = b""
    while len(key) < KEY_LEN:
        key += await stream.receive(KEY_LEN - len(key))
    return key


async def _authenticate(channel: SecureStream, public: bytes, credentials: Credentials) -> int:
    """The node at the other end.

    Raises:
        SecureError: it does not prove to be one, or is another one than the tunnel says.
    """
    proof = auth.Proof.decode(await channel.receive_frame())
    remote = channel.extra(PilotAttribute.remote_address, None)
    if remote is not None and remote.address.node != proof.node_id:
        raise auth.refused(f"it says node {proof.node_id}, and the tunnel {remote.address.node}")
    if remote is None and proof.node_id == credentials.node_id:
        # Our own proof cannot come back to us: it is for another X25519 key.
        raise auth.refused("it says to be ourselves")
    auth.check(proof, public, await credentials.key_of(proof.node_id), now=time.time())
    if not credentials.nonces.add(proof.nonce, time.monotonic()):
        raise auth.refused("its proof was used before")
    return proof.node_id
