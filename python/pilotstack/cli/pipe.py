"""Streams on the command line: joined to stdin and stdout, or read to the end of an answer."""

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

_CHUNK = 1 << 18
#: Seconds for which stdin may be silent after the peer finished, or an answer after its beginning.
_SILENCE = 1.0
#: State, as daemons show it, of a connection that has sent no FIN.
_ESTABLISHED = "ESTABLISHED"


async def read_all(stream: Stream) -> bytes:
    """Everything that the peer sends before its FIN."""
    chunks = []
    with suppress(anyio.EndOfStream):
        while True:
            chunks.append(await stream.receive())
    return b"".join(chunks)


async def answer(driver: Driver, stream: Stream) -> bytes:
    """Finishes our side and reads the peer's answer to its end.

    Daemons of the older generations have no half-close: the FIN waits until the stream is closed,
    so such a peer may never finish by itself. Its answer ends when it pauses.
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


async def _is_finished(driver: Driver, stream: Stream) -> bool:
    """Whether our FIN went out."""
    if not stream.has_half_close:
        return False
    states = {row.id: row.state for row in await driver.connections()}
    return states.get(stream.connection_id) != _ESTABLISHED


async def join(stream: Stream, *, is_raw: bool) -> None:
    """Copies stdin to the stream and the stream to stdout until the peer finishes.

    What stdin still holds then is sent, unless it is a terminal.

    Args:
        is_raw: bytes go to stdout as they are; else control characters are escaped.
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
    """What can be read from stdin; nothing at its end, or when it is closed."""
    if sys.stdin is None:
        return b""
    fd = sys.stdin.fileno()
    # Files are always ready and cannot be waited for.
    with suppress(PermissionError):
        await anyio.wait_readable(fd)
    try:
        return os.read(fd, _CHUNK)
    except OSError:
        return b""


async def _downstream(stream: Stream, is_raw: bool) -> None:
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
