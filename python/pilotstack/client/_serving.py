"""Handlers of streams, for both shells: the error of one never ends the server."""

from __future__ import annotations

import logging

import anyio

from pilotstack.errors import StreamBroken

log = logging.getLogger("pilotstack")

_REMOTE = (
    *(StreamBroken, ConnectionResetError, BrokenPipeError),
    *(anyio.EndOfStream, anyio.IncompleteRead),
)


def is_remote(error: BaseException) -> bool:
    """Whether the other side is the cause: a reset, an end in the middle. Groups count if all of
    their errors do."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_remote(part) for part in error.exceptions)
    return isinstance(error, _REMOTE)


def report(error: Exception, stream: object) -> None:
    """What is done about a handler's error unless ``on_error`` is given."""
    log.error("the handler of %r failed", stream, exc_info=error)


def report_remote(error: Exception, stream: object) -> None:
    """What is done about an error that the other side caused."""
    log.debug("%r ended: %s", stream, error)


def report_hook(error: Exception) -> None:
    """What is done about a hook that fails itself."""
    log.error("a hook failed", exc_info=error)
