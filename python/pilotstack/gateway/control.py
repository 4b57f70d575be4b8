"""The control socket of a running gateway: one request and one answer, each a line of JSON.

It has mode 0600, and serves its own user and root only. Requests are bounded in length, time and
number.
"""

from __future__ import annotations

import os
import socket as sockets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from anyio.abc import SocketAttribute

from pilotstack import _paths
from pilotstack.errors import (
    ConnectionFailed,
    InvalidArgument,
    NotRunning,
    PilotError,
    TimedOut,
    from_code,
)
from pilotstack.gateway.mapping import IP, Row, parse_ip
from pilotstack.services.local import LocalStream, accept_forever, close_gently

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pilotstack.gateway.gateway import Gateway

#: Bytes of a request and of an answer, without the line's end.
_MAX_REQUEST: Final = 4096
_MAX_ANSWER: Final = 4 << 20
#: Seconds for a request to arrive, and for its answer.
_ARRIVAL: Final = 5.0
_PATIENCE: Final = 60.0
_UNKNOWN: Final = "pilotctl and the gateway may be of different versions"
_LOG: Final = "its log has why; if it hangs, end it and start it again"
#: Requests at once.
_MAX_CLIENTS: Final = 32
_ROOT: Final = 0


class Map(msgspec.Struct, tag="map", tag_field="command", frozen=True):
    """Map an agent; to this IP, if one is given."""

    agent: str
    local_ip: str = ""


class Unmap(msgspec.Struct, tag="unmap", tag_field="command", frozen=True):
    """End the mapping of a local IP or of an agent."""

    what: str


class List(msgspec.Struct, tag="list", tag_field="command", frozen=True):
    """List mappings."""


class Stop(msgspec.Struct, tag="stop", tag_field="command", frozen=True):
    """End the gateway. The connection is closed when it has ended."""


Request = Map | Unmap | List | Stop


class Status(msgspec.Struct, frozen=True):
    """What a running gateway is and does."""

    pid: int
    subnet: str
    proxy: str
    mappings: list[Row]
    connections: int
    total: int
    #: Connections and clients that were not served, by reason.
    refused: dict[str, int]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer, or why there is none."""

    status: str
    row: Row | None = None
    gateway: Status | None = None
    code: str = ""
    message: str = ""
    hint: str | None = None


class ControlSocket:
    """Serves the control socket.

    Args:
        listening: from :func:`bind`.
        gateway: what requests are about.
        status: says what it does.
        stop: ends it.
    """

    def __init__(
        self,
        listening: sockets.socket,
        gateway: Gateway,
        status: Callable[[], Status],
        stop: Callable[[], object],
    ) -> None:
        self._listening = listening
        self._gateway = gateway
        self._status = status
        self._stop = stop
        self._clients = 0
        self._held: list[sockets.socket] = []

    async def serve(self) -> None:
        """Answers requests until cancelled."""
        await accept_forever(self._listening, self._handle)

    async def _handle(self, client: LocalStream) -> None:
        uid = _paths.peer(client.extra(SocketAttribute.raw_socket))[1]
        if self._clients >= _MAX_CLIENTS or uid not in {os.geteuid(), _ROOT, None}:
            return
        self._clients += 1
        try:
            with anyio.fail_after(_ARRIVAL):
                line = await _line(client)
            answer, is_stop = await self._answer(line)
            await client.send(msgspec.json.encode(answer) + b"\n")
            if is_stop:
                # The system closes this one when the process has ended, which the client waits for.
                self._held.append(client.extra(SocketAttribute.raw_socket).dup())
                self._stop()
            await close_gently(client)
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        finally:
            self._clients -= 1

    async def _answer(self, line: bytes) -> tuple[Answer, bool]:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _failure(InvalidArgument(f"not a request: {error}", hint=_UNKNOWN)), False
        try:
            match request:
                case Map(agent, local_ip):
                    ip = parse_ip(local_ip) if local_ip else None
                    return Answer("ok", row=await self._gateway.map(agent, ip)), False
                case Unmap(what):
                    return Answer("ok", row=await self._gateway.unmap(_ip_or_name(what))), False
                case List():
                    return Answer("ok", gateway=self._status()), False
                case Stop():
                    return Answer("ok", gateway=self._status()), True
        except PilotError as error:
            return _failure(error), False


def _ip_or_name(text: str) -> IP | str:
    try:
        return parse_ip(text)
    except InvalidArgument:
        return text


def _failure(error: PilotError) -> Answer:
    return Answer("error", code=error.code, message=str(error), hint=error.hint)


async def _line(client: LocalStream) -> bytes:
    data = b""
    while b"\n" not in data:
        if len(data) > _MAX_REQUEST:
            raise anyio.EndOfStream
        data += await client.receive(_MAX_REQUEST)
    return data.partition(b"\n")[0]


def bind(path: Path) -> sockets.socket:
    """The listening socket at a path, of mode 0600; a stale one is replaced. The caller owns the
    path by a lock.

    Raises:
        InvalidArgument: no socket can be created there.
    """
    listening = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        # Others must not connect before the mode is set.
        mask = os.umask(0o177)
        try:
            with _paths.socket_address(path) as address:
                listening.bind(address)
        finally:
            os.umask(mask)
        listening.listen(_MAX_CLIENTS)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise InvalidArgument(
            f"cannot make a socket at {path}: {error.strerror}",
            hint="choose another path with --control",
        ) from error
    return listening


def ask(path: Path, request: Request) -> Answer:
    """Asks the running gateway something. After :class:`Stop` it has ended.

    Raises:
        NotRunning: none answers at the path.
        PilotError: its refusal.
    """
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        try:
            _paths.connect(connection, path)
        except PilotError:
            raise
        except OSError as error:
            raise NotRunning(
                f"no gateway answers at {path}", hint="start it with: pilotctl gateway start"
            ) from error
        try:
            connection.sendall(msgspec.json.encode(request) + b"\n")
            line = _read(connection, is_whole=isinstance(request, Stop))
            answer = msgspec.json.decode(line, type=Answer)
        except TimeoutError as error:
            raise TimedOut(f"the gateway at {path} does not answer", hint=_LOG) from error
        except (OSError, msgspec.MsgspecError) as error:
            raise ConnectionFailed(f"no answer of the gateway at {path}", hint=_LOG) from error
    if answer.status != "ok":
        raise from_code(answer.code, answer.message, answer.hint)
    return answer


def _read(connection: sockets.socket, *, is_whole: bool) -> bytes:
    """A line; if ``is_whole``, up to the end of the connection."""
    data = bytearray()
    while (is_whole or b"\n" not in data) and len(data) <= _MAX_ANSWER:
        try:
            chunk = connection.recv(1 << 16)
        except ConnectionError:
            # A process that ends resets what it leaves.
            break
        if not chunk:
            break
        data += chunk
    return bytes(data)
