"""The exceptions of this package.

One base class; each error carries a machine-readable ``code`` (the ones of the command line and of
JSON output) and, where a remedy is known, a ``hint``. Where the standard library or anyio has an
exception with the same meaning, ours inherits from it too, so ``except TimeoutError`` or
``except anyio.BrokenResourceError`` works without importing this module.
"""

from __future__ import annotations

import errno

import anyio

__all__ = [
    "AlreadyExists",
    "ConnectionFailed",
    "ConnectionRefused",
    "ForkedDriver",
    "InternalError",
    "InvalidArgument",
    "InvalidType",
    "NotFound",
    "NotRunning",
    "PermissionDenied",
    "PilotError",
    "StreamBroken",
    "Throttled",
    "TimedOut",
    "Unavailable",
    "from_code",
]


class PilotError(Exception):
    """Base of all errors of this package.

    Args:
        message: one sentence in lower case, without a trailing period.
        code: overrides the class's ``code``.
        hint: what the caller can do about it, if known.
    """

    code: str = "internal"
    hint: str | None
    message: str

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code
        if hint is not None:
            # Tracebacks and logs show notes.
            self.add_note(f"hint: {hint}")

    def __str__(self) -> str:
        return self.message


class InvalidArgument(PilotError, ValueError):
    """The caller passed something outside its documented range."""

    code = "invalid_argument"


class InvalidType(InvalidArgument, TypeError):
    """The caller passed something of a type that is not documented."""


class NotFound(PilotError, LookupError):
    """A name, node, port or connection does not exist."""

    code = "not_found"


class AlreadyExists(PilotError, FileExistsError):
    """A port, hostname, socket or process is already taken."""

    code = "already_exists"


class NotRunning(PilotError, ConnectionError):
    """No daemon answers at the socket."""

    code = "not_running"


class ConnectionFailed(PilotError, ConnectionError):
    """A peer, registry or beacon could not be reached, or refused the request."""

    code = "connection_failed"


class ConnectionRefused(ConnectionFailed, ConnectionRefusedError):
    """Nothing listens on the peer's port."""


class Throttled(ConnectionFailed):
    """The registry refused the request because of its rate limit."""

    code = "throttled"


class TimedOut(PilotError, TimeoutError):
    """No answer in time."""

    code = "timeout"


class PermissionDenied(PilotError, PermissionError):
    """The caller may not do this."""

    code = "permission_denied"


class Unavailable(PilotError):
    """The other side does not support this."""

    code = "unavailable"


class InternalError(PilotError):
    """A bug of this package, or an invalid answer."""

    code = "internal"


class ForkedDriver(PilotError, RuntimeError):
    """A driver, listener or datagram socket was inherited by fork; it belongs to the parent
    process.
    """

    code = "invalid_argument"


class StreamBroken(PilotError, anyio.BrokenResourceError, ConnectionResetError):
    """A stream ended other than by the peer's FIN.

    ``reason`` is one of ``reset``, ``timeout``, ``idle``, ``peer_restarted``, ``unreachable``,
    ``shutdown``, ``refused``, ``aborted`` (see the close reasons in the IPC reference), or
    ``daemon_gone`` when the local daemon ended.
    """

    code = "connection_failed"
    reason: str

    def __init__(self, message: str, *, reason: str = "reset", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.errno = errno.ECONNRESET


def from_code(code: str, message: str, hint: str | None = None) -> PilotError:
    """The error with this ``code``, as received from a daemon or registry."""
    by_code: dict[str, type[PilotError]] = {
        cls.code: cls
        for cls in (
            InvalidArgument,
            NotFound,
            AlreadyExists,
            NotRunning,
            ConnectionFailed,
            Throttled,
            TimedOut,
            PermissionDenied,
            Unavailable,
            InternalError,
        )
    }
    if code == "connection_refused":
        return ConnectionRefused(message, hint=hint)
    cls = by_code.get(code)
    return cls(message, hint=hint) if cls else PilotError(message, code=code, hint=hint)
