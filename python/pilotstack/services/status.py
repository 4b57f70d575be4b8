"""Status of a node on port 1: who it is and what it offers
(docs/reference/protocol/services.md#status).

A node answers each stream with one JSON object and an end; it reads nothing. The tunnel decides who
may ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import anyio
import msgspec

from pilotstack import wellknown
from pilotstack.errors import ConnectionFailed
from pilotstack.ipc.layout import read_address
from pilotstack.types import Address  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.client import Driver, Stream
    from pilotstack.services.limits import Handler

__all__ = ["Service", "Status", "ask", "decode", "encode", "handler"]

#: Bytes of an answer at most.
MAX_ANSWER: Final = 1 << 16
#: Seconds that a peer has to take an answer.
PATIENCE: Final = 10.0
_OTHER: Final = "a program of its own may listen on that port there"

_Text = Annotated[str, msgspec.Meta(max_length=255)]


class Service(msgspec.Struct, frozen=True):
    """Something that a node offers on a port."""

    port: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    name: _Text


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a node tells about itself."""

    status: Literal["ok"] = "ok"
    protocol: Literal["pilot"] = "pilot"
    address: Address
    hostname: _Text = ""
    version: _Text
    uptime_secs: Annotated[int, msgspec.Meta(ge=0)]
    #: Services of the node itself. Programs may listen on other ports.
    services: Annotated[tuple[Service, ...], msgspec.Meta(max_length=64)] = ()


_DECODER: Final = msgspec.json.Decoder(Status, dec_hook=read_address)


def _text(value: object) -> str:
    """The JSON form of an address, for msgspec."""
    return str(value)


def encode(status: Status) -> bytes:
    """The answer on the wire."""
    return msgspec.json.encode(status, enc_hook=_text) + b"\n"


def decode(data: bytes) -> Status:
    """Reads an answer.

    Raises:
        ConnectionFailed: it is malformed.
    """
    try:
        return _DECODER.decode(data)
    except (ValueError, NotImplementedError, RecursionError) as error:
        raise ConnectionFailed("the node's status is malformed", hint=_OTHER) from error


def handler(status: Callable[[], Status]) -> Handler:
    """Serves a stream: ``listener.serve(handler(status))``."""

    async def serve(stream: Stream) -> None:
        async with stream:
            with anyio.fail_after(PATIENCE):
                await stream.send(encode(status()))

    return serve


async def ask(driver: Driver, address: Address, *, timeout: float = PATIENCE) -> Status:
    """What a node tells about itself.

    Raises:
        ConnectionRefused: it tells nothing; nodes of other implementations do not.
        ConnectionFailed: it cannot be reached, or the answer is malformed.
        TimedOut: it did not answer in time.
    """
    answer = bytearray()
    with anyio.fail_after(timeout):
        async with driver.dial((address, wellknown.STATUS_PORT), timeout=timeout) as stream:
            async for chunk in stream:
                answer += chunk
                if len(answer) > MAX_ANSWER:
                    raise ConnectionFailed("the node's status is too long", hint=_OTHER)
    return decode(bytes(answer))
