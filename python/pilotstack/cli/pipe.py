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
from pilotstack.services import stdio

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
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    patience = 0.0 if is_terminal else _SILENCE
    await stdio.session(stream, _Stdin(), _Stdout(is_raw), patience=patience)


class _Stdin:
    """Standard input."""

    async def receive(self) -> bytes:
        """The next bytes."""
        if chunk := await _read_in():
            return chunk
        raise anyio.EndOfStream


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


class _Stdout:
    """Standard output.

    Args:
        is_raw: bytes are not changed; otherwise control characters are escaped.
    """

    def __init__(self, is_raw: bool) -> None:
        self._is_raw = is_raw
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    async def send(self, item: bytes) -> None:
        """Writes bytes."""
        if not self._is_raw:
            item = visible(self._decoder.decode(item), keeps_lines=True).encode()
        await anyio.to_thread.run_sync(_write_out, item, abandon_on_cancel=True)


def _write_out(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
