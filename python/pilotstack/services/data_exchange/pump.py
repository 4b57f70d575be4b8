"""Moves the data of a file between a socket and a file in one thread.

An event loop in between would cost more than the copying. A pump is used where a stream has a
socket; others are read and written by the event loop. It blocks, looks every :data:`SLICE` seconds
whether it is to stop, and leaves the socket at a border of frames, or at its end.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Final

from pilotstack.services.data_exchange import bulk, frames
from pilotstack.services.data_exchange.frames import FrameError, FrameType, Header
from pilotstack.services.data_exchange.refusals import telling

if TYPE_CHECKING:
    import socket as sockets

    from pilotstack.services.data_exchange.hasher import Hasher
    from pilotstack.services.data_exchange.partial import Partial

__all__ = ["Ended", "Receiver", "Sender", "Stopped"]

#: Seconds between looks at whether to stop.
SLICE: Final = 0.1
#: Bytes of the largest piece that is written at once.
BLOCK: Final = 1 << 20
_HEAD: Final = frames.HEADER_LEN + 1
#: Frames without data in a row that a sender has no use for.
_MAX_EMPTY: Final = 16


class Ended(Exception):
    """The stream ended, or broke."""


class Stopped(Exception):
    """It was told to stop."""


class _Pump:
    """Waits for a socket.

    Args:
        socket: non-blocking.
        idle: seconds without progress after which it gives up.
    """

    def __init__(self, socket: sockets.socket, idle: float) -> None:
        self._socket = socket
        self._idle = idle
        self._poll = select.poll()
        self.is_stopped = False

    def stop(self) -> None:
        """Has it stop soon."""
        self.is_stopped = True

    def _watch(self, events: int) -> None:
        self._poll.register(self._socket, events)

    def _wait(self) -> None:
        """Returns when the socket can be used.

        Raises:
            Stopped: before that.
            TimeoutError: nothing happens any more.
        """
        deadline = time.monotonic() + self._idle
        while not self._poll.poll(SLICE * 1000):
            if self.is_stopped:
                raise Stopped
            if time.monotonic() > deadline:
                raise TimeoutError
        if self.is_stopped:
            raise Stopped


class Receiver(_Pump):
    """Takes DATA frames, and writes what is in them.

    Args:
        socket: of the stream.
        rest: bytes that were read from it already.
        partial: the file.
        idle: seconds without a byte after which the peer is taken for gone.
    """

    def __init__(self, socket: sockets.socket, rest: bytes, partial: Partial, idle: float) -> None:
        super().__init__(socket, idle)
        self._rest = memoryview(rest)
        self._partial = partial
        # One is filled while the other one is hashed.
        self._buffers = [memoryview(bytearray(BLOCK)) for _ in range(2)]
        self._watch(select.POLLIN)

    def run(self) -> tuple[int, int]:
        """Takes data until another frame comes. Returns its kind, and how much of it follows.

        Raises:
            Ended: the stream ended before.
            FrameError: the peer does not keep to the protocol.
            Refused: the data cannot be stored.
            Stopped: it was told to.
            TimeoutError: the peer is silent.
        """
        if self._partial.offset:
            with telling():
                self._partial.rehash()
        with self._partial.hashing() as hasher:
            return self._take(hasher)

    def _take(self, hasher: Hasher) -> tuple[int, int]:
        empty = 0
        while True:
            head = bytearray(_HEAD)
            self._fill(memoryview(head))
            header = frames.parse_header(bytes(head[: frames.HEADER_LEN]))
            left = _length_of(header) - 1
            if head[-1] != bulk.Kind.DATA:
                return head[-1], left
            empty = empty + 1 if not left else 0
            if left > bulk.MAX_BLOCK or empty > _MAX_EMPTY:
                raise FrameError("a block of a wrong size")
            while left:
                self._buffers.reverse()
                piece = self._buffers[0][: min(left, BLOCK)]
                try:
                    self._fill(piece)
                except (Ended, Stopped) as error:
                    # What came of the block is kept for the next attempt.
                    self._write(piece[: self._filled], hasher)
                    raise error
                self._write(piece, hasher)
                left -= len(piece)

    def _write(self, piece: memoryview, hasher: Hasher) -> None:
        if piece:
            with telling():
                self._partial.write((piece,), hasher)

    def _fill(self, view: memoryview) -> None:
        self._filled = 0
        while self._filled < len(view):
            self._filled += self._read(view[self._filled :])

    def _read(self, view: memoryview) -> int:
        if self._rest:
            count = min(len(self._rest), len(view))
            view[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            return count
        while True:
            try:
                count = self._socket.recv_into(view)
            except (BlockingIOError, InterruptedError):
                self._wait()
                continue
            except OSError as error:
                raise Ended from error
            if not count:
                raise Ended
            return count


def _length_of(header: Header) -> int:
    if header.type != FrameType.BULK or not header.length:
        raise FrameError("a frame inside a file")
    return header.length


class Sender(_Pump):
    """Sends bytes.

    Args:
        socket: of the stream.
        idle: seconds without progress after which the peer is taken for gone.
    """

    def __init__(self, socket: sockets.socket, idle: float) -> None:
        super().__init__(socket, idle)
        self._watch(select.POLLOUT)

    def send(self, data: bytes | memoryview) -> None:
        """Sends all of it.

        Raises:
            Ended: the stream broke.
            Stopped: it was told to.
            TimeoutError: the peer takes nothing.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, InterruptedError):
                self._wait()
            except OSError as error:
                raise Ended from error
