"""A stream as a plain socket that tells an end from a break."""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from pilotstack.client._wire import DAEMON_GONE, Ending, is_cut
from pilotstack.errors import StreamBroken
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pilotstack.client._wire import Wire

T = TypeVar("T")

#: How a stream ended: its number, whether the daemon closed its end, whether we sent FIN. The
#: answer is why it broke, if it did.
Judge = Callable[[int, bool, bool], "str | None"]

NOWHERE = SocketAddress(Address(0, 0), 0)


class Ends(Protocol):
    """What has a local and a remote address."""

    local_address: SocketAddress
    remote_address: SocketAddress


def describe(stream: Ends) -> str:
    """Where from and where to, for people."""
    return f"{stream.local_address} -> {stream.remote_address}"


def broken(remote: SocketAddress, reason: str) -> StreamBroken:
    """The error for a stream that broke."""
    hint = "the daemon on this machine ended" if reason == DAEMON_GONE else None
    return StreamBroken(f"the stream to {remote} broke: {reason}", reason=reason, hint=hint)


def without_session(_: int, is_cut: bool, is_shut: bool) -> str | None:
    """How a stream ended about which nobody can be asked: FIN ends one direction only, so if both
    ended and we did not end ours, something else happened."""
    return "reset" if is_cut and not is_shut else None


def beside(wire: Wire) -> Judge:
    """How streams end whose session must not be read, since it is another thread's to read."""

    def judge(connection_id: int, is_cut: bool, is_shut: bool) -> str | None:
        ending = wire.ending(connection_id, is_cut=is_cut, is_shut=is_shut)
        if isinstance(ending, Ending):
            return None if ending is Ending.FIN else "reset"
        return ending

    return judge


class StreamSocket(sockets.socket):
    """A stream to another agent, as a connected socket with two more addresses.

    Reading 0 bytes means the peer's FIN. A stream that broke raises :exc:`StreamBroken`, a
    :exc:`ConnectionResetError`, from every later call, too. Code that takes its descriptor away
    (``detach``, ``os.read``, :mod:`ssl`) is told by the system: ECONNRESET once after the data,
    on Linux.
    """

    connection_id: int = 0
    local_address: SocketAddress = NOWHERE
    remote_address: SocketAddress = NOWHERE
    _judge: Judge = staticmethod(without_session)
    _is_shut: bool = False
    #: Why it broke; the system tells that once only.
    _reason: str | None = None
    #: Closes what was opened for this stream alone.
    _owner: Callable[[], None] | None = None

    @classmethod
    def _make(
        cls,
        fd: int,
        connection_id: int,
        local: SocketAddress,
        remote: SocketAddress,
        judge: Judge,
    ) -> Self:
        stream = cls(fileno=fd)
        stream.setblocking(True)
        stream.connection_id = connection_id
        stream.local_address = local
        stream.remote_address = remote
        stream._judge = judge
        return stream

    def _released(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner()

    def close(self) -> None:
        """Closes both directions; what was sent still arrives."""
        super().close()
        # Files made of the socket keep it open.
        if self.fileno() < 0:
            self._released()

    def detach(self) -> int:
        """The descriptor, which is the caller's to close."""
        number = super().detach()
        self._released()
        return number

    def dup(self) -> Self:
        """Another descriptor of the same stream."""
        copy = super().dup()
        for name in ("connection_id", "local_address", "remote_address", "_judge", "_is_shut"):
            setattr(copy, name, getattr(self, name))
        return copy

    def getpeername(self) -> tuple[str, int]:
        """The peer's address as text, and its port: what servers and frameworks take for a client's
        address. A tunnel proves the address."""
        super().getpeername()
        return str(self.remote_address.address), self.remote_address.port

    def getsockname(self) -> tuple[str, int]:
        """This node's address as text, and the port."""
        super().getsockname()
        return str(self.local_address.address), self.local_address.port

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else f"broken: {self._reason}" if self._reason else ""
        return f"<Stream {self.connection_id} {describe(self)} {state or 'open'}>"

    def _broken(self, reason: str) -> StreamBroken:
        self._reason = reason
        return broken(self.remote_address, reason)

    def _try(self, call: Callable[..., T], *arguments: object) -> T:
        if self._reason is not None:
            raise self._broken(self._reason)
        try:
            return call(*arguments)
        except ConnectionError as error:
            raise self._broken(self._judge(self.connection_id, True, False) or "reset") from error

    def _check_end(self, count: int) -> None:
        if count == 0:
            reason = self._judge(self.connection_id, is_cut(self), self._is_shut)
            if reason is not None:
                raise self._broken(reason)

    # The names and defaults of the parameters are those of the standard library.

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As of a socket; raises :exc:`StreamBroken` if the end is not the peer's FIN."""
        data = self._try(super().recv, bufsize, flags)
        if bufsize:
            self._check_end(len(data))
        return data

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """As :meth:`recv`."""
        return self.recv(bufsize, flags), None

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """As :meth:`recv`."""
        message = self._try(super().recvmsg, bufsize, ancbufsize, flags)
        if bufsize:
            self._check_end(len(message[0]))
        return message

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """As :meth:`recv`."""
        count = self._try(super().recv_into, buffer, nbytes, flags)
        if memoryview(buffer).nbytes:
            self._check_end(count)
        return count

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Any]:
        """As :meth:`recv`."""
        return self.recv_into(buffer, nbytes, flags), None

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """As of a socket."""
        return self._try(super().send, data, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """As of a socket."""
        self._try(super().sendall, data, flags)

    def shutdown(self, how: int, /) -> None:
        """As of a socket: ``SHUT_WR`` sends FIN."""
        self._try(super().shutdown, how)
        self._is_shut = self._is_shut or how in {sockets.SHUT_WR, sockets.SHUT_RDWR}
