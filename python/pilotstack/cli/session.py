"""A session with the daemon for control verbs only.

Most commands make one or two requests. This needs neither the SDK nor an event loop, whose imports
take longer than the answer. Daemons without the extension (``docs/reference/protocol/ipc.md``) are
left to the SDK.
"""

from __future__ import annotations

import socket as sockets
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Final, Self, TypeVar

import msgspec

from pilotstack import _paths, wellknown
from pilotstack.errors import (
    InternalError,
    InvalidArgument,
    NotRunning,
    PermissionDenied,
    PilotError,
    TimedOut,
    Unavailable,
    from_code,
)
from pilotstack.ipc import codes
from pilotstack.types import Address, parse_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from pilotstack.ipc.layout import Request

A = TypeVar("A", bound=msgspec.Struct)

#: Seconds that the daemon has to greet, and for an answer unless its verb says otherwise.
SETUP: Final = 10.0
PATIENCE: Final = 30.0
_HINT: Final = "start the daemon with: pilotctl daemon start"
_ID: Final = 1


class Failure(msgspec.Struct):
    """An error report of the daemon."""

    code: str
    message: str
    hint: str = ""


class ControlSession:
    """Makes requests to one daemon, one after the other; a context manager.

    Args:
        path: its socket; the default place unless given.
        patience: seconds for an answer, unless its verb may take longer.
        waiting: makes a context that lasts as long as an answer is waited for.

    Raises:
        NotRunning: no daemon answers.
        PermissionDenied: the socket is not for this user, or another user serves it.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        patience: float = PATIENCE,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._path = path or wellknown.default_socket()
        self._patience = patience
        self._waiting = waiting
        #: The daemon speaks the extension.
        self._is_extended = True
        with ExitStack() as stack:
            self._socket = stack.enter_context(sockets.socket(sockets.AF_UNIX))
            self._socket.settimeout(min(patience, SETUP))
            self._connect()
            self._greet()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _connect(self) -> None:
        path = self._path
        if "\0" in str(path):
            raise InvalidArgument(f"no socket can have this path: {str(path)!r}")
        try:
            _paths.connect(self._socket, path)
        except PilotError:
            raise
        except PermissionError as error:
            raise PermissionDenied(
                f"the daemon's socket at {path} is not for this user",
                hint="use the daemon of this user, or run as the user that started it",
            ) from error
        except OSError as error:
            is_default = path == _paths.default_socket()
            hint = _HINT if is_default else f"{_HINT} --socket {path}"
            raise NotRunning(f"no daemon answers at {path}", hint=hint) from error

    def _greet(self) -> None:
        command, payload = self._exchange(codes.HELLO, codes.VERSION.to_bytes(2))
        if command == codes.HELLO_OK:
            return
        text = payload[2:].decode(errors="replace")
        if command == codes.FAILURE:
            raise _error_of(payload[4:])
        if "unknown command" not in text:
            raise Unavailable(text or "the daemon refuses the session")
        self._is_extended = False

    def ask(self, request: Request[A]) -> A:
        """The answer to a request.

        Raises:
            PilotError: the daemon's refusal.
            TimedOut: it did not answer in time.
            NotRunning: it ended.
        """
        if not self._is_extended:
            with self._waiting():
                return _ask_with_sdk(self._path, request)
        self._socket.settimeout(request.patience or self._patience)
        body = _ID.to_bytes(4) + bytes((request.command,)) + request.pack()
        with self._waiting():
            command, payload = self._exchange(codes.REQUEST, body)
        if command == codes.FAILURE:
            raise _error_of(payload[4:])
        # The id, and the verb's number plus one.
        return request.decode(payload[5:])

    def _exchange(self, command: int, body: bytes) -> tuple[int, bytes]:
        """Sends a frame, and returns number and payload of the next one that arrives."""
        length = 1 + len(body)
        if length > codes.MAX_FRAME:
            raise InvalidArgument(f"a request has at most {codes.MAX_FRAME} bytes, not {length}")
        try:
            self._socket.sendall(length.to_bytes(codes.LENGTH_LEN) + bytes((command,)) + body)
            frame = self._read(int.from_bytes(self._read(codes.LENGTH_LEN)))
        except TimeoutError as error:
            raise TimedOut(
                "no answer in time", hint="the daemon may be stopped or overloaded"
            ) from error
        except OSError as error:
            raise NotRunning("the daemon went away", hint=_HINT) from error
        if not frame:
            raise InternalError("the daemon sent an empty frame")
        return frame[0], frame[1:]

    def _read(self, length: int) -> bytes:
        if length > codes.MAX_FRAME:
            raise InternalError(f"the daemon sent a frame of {length} bytes")
        data = bytearray()
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return bytes(data)


def _ask_with_sdk(path: Path, request: Request[A]) -> A:
    import anyio

    from pilotstack.client import Driver

    async def ask() -> A:
        async with Driver(path) as driver:
            return await driver.ask(request)

    return anyio.run(ask)


def _error_of(payload: bytes) -> PilotError:
    try:
        failure = msgspec.json.decode(payload, type=Failure)
    except msgspec.DecodeError:
        return InternalError("the daemon sent a malformed failure")
    return from_code(failure.code, failure.message, failure.hint or None)


def address_of(session: ControlSession, target: str) -> Address:
    """The address of an address, node id or hostname."""
    from pilotstack.ipc.requests import ResolveHostname

    host = parse_host(target)
    return host if isinstance(host, Address) else session.ask(ResolveHostname(host)).address
