"""Streams on the command line: connected to stdin and stdout, or read until an answer ends."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from pilotstack.cli.text import visible

if TYPE_CHECKING:
    from pilotstack.client import Driver, Stream
    from pilotstack.services.secure import SecureStream

_CHUNK = 1 << 18
#: Seconds of silence after which stdin is over once the peer has finished, or an answer that began.
_SILENCE = 1.0
#: State of a connection that has sent no FIN, as daemons show it.
_ESTABLISHED = "ESTABLISHED"


async def read_all(stream: Stream) -> bytes:
    """Reads until the peer's FIN."""
    chunks = []
    with suppress(anyio.EndOfStream):
        while True:
            chunks.append(await stream.receive())
    return b"".join(chunks)


async def answer(driver: Driver, stream: Stream | SecureStream) -> bytes:
    """Sends our FIN and reads the peer's answer.

    Older daemons have no half-close: they send the FIN when the stream is closed, so a peer that
    waits for it never finishes. There the answer ends with a pause.
    """
    if stream.has_half_close:
        await stream.send_eof()
    chunks: list[bytes] = []
    with suppress(anyio.EndOfStream):
        while True:
            with anyio.CancelScope() as pause:
                if chunks:
                    pause.deadline = anyio.current_time() + _SILENCE
                chunks.append(await stream.receive())
            if pause.cancelled_caught and not await _is_finished(driver, stream):
                break
    return b"".join(chunks)


async def _is_finished(driver: Driver, stream: Stream | SecureStream) -> bool:
    """Whether our FIN was sent."""
    if not stream.has_half_close:
        return False
    states = {row.id: row.state for row in await driver.connections()}
    return states.get(stream.connection_id) != _ESTABLISHED


async def join(stream: Stream | SecureStream, *, is_raw: bool) -> None:
    """Copies stdin to the stream and the stream to stdout until the peer finishes.

    The rest of stdin is still sent then, unless it is a terminal.

    Args:
        is_raw: copy bytes unchanged; otherwise control characters are escaped.
    """
    has_peer_finished = False

    async def upstream(sending: anyio.CancelScope) -> None:
        with sending:
            while chunk := await _read_in():
                await stream.send(chunk)
                if has_peer_finished:
                    sending.deadline = anyio.current_time() + _SILENCE
            await stream.send_eof()

    async with anyio.create_task_group() as tasks:
        sending = anyio.CancelScope()
        tasks.start_soon(upstream, sending)
        await _downstream(stream, is_raw)
        has_peer_finished = True
        is_terminal = sys.stdin is not None and sys.stdin.isatty()
        sending.deadline = anyio.current_time() + (0 if is_terminal else _SILENCE)


async def _read_in() -> bytes:
    """Reads from stdin; returns nothing at its end, or if it is closed."""
    if sys.stdin is None:
        return b""
    fd = sys.stdin.fileno()
    # Regular files are always readable, and epoll refuses them.
    with suppress(PermissionError):
        await anyio.wait_readable(fd)
    try:
        return os.read(fd, _CHUNK)
    except OSError:
        return b""


async def _downstream(stream: Stream | SecureStream, is_raw: bool) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    with suppress(anyio.EndOfStream):
        while True:
            chunk = await stream.receive()
            if not is_raw:
                chunk = visible(decoder.decode(chunk), keeps_lines=True).encode()
            await anyio.to_thread.run_sync(_write_out, chunk, abandon_on_cancel=True)


def _write_out(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
