"""UDP sockets that ask beacons, and each other. The only I/O of this package."""

from __future__ import annotations

import errno
import os
import socket as sockets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import anyio

from pilotstack import _resolving
from pilotstack.netcheck.messages import Endpoint, discover, parse_reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

#: Seconds between repetitions of a question, of which each waits as long for its answer at least.
_REPEAT: Final = (0.2, 0.4, 0.8)
#: Seconds for a datagram to our own reflexive endpoint.
_HAIRPIN: Final = 0.3
#: Bytes of a token.
_TOKEN: Final = 16
_READ: Final = 1 << 16
#: Never fragment, and ignore what routers said about the path before: linux/in.h, linux/in6.h.
_V4_DISCOVER, _V6_DISCOVER, _PROBE = 10, 23, 3


@dataclass(frozen=True, slots=True)
class Reply:
    """A beacon's answer; ``rtt`` in seconds, ``None`` if it may belong to an earlier question."""

    reflexive: Endpoint
    rtt: float | None


class Asking:
    """One UDP socket of one family; a context manager.

    Args:
        family: ``AF_INET`` or ``AF_INET6``.

    Raises:
        OSError: this host does not have the family.
    """

    def __init__(self, family: int) -> None:
        self._socket = sockets.socket(family, sockets.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            if family == sockets.AF_INET6:
                self._socket.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 1)
            self._socket.bind(("", 0))
            self._never_fragment(family)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    @property
    def local(self) -> Endpoint:
        """Its address, which is unspecified, and its port."""
        host, port = self._socket.getsockname()[:2]
        return Endpoint(host, port)

    def _never_fragment(self, family: int) -> None:
        level, option = (
            (sockets.IPPROTO_IPV6, _V6_DISCOVER)
            if family == sockets.AF_INET6
            else (sockets.IPPROTO_IP, _V4_DISCOVER)
        )
        # Other systems than Linux have other numbers; there the MTU is not measured.
        with suppress(OSError):
            self._socket.setsockopt(level, option, _PROBE)

    async def ask(
        self,
        beacons: Iterable[Endpoint],
        length: int = 0,
        pauses: Sequence[float] = _REPEAT,
    ) -> dict[Endpoint, Reply]:
        """The replies of beacons, as far as they come.

        Args:
            beacons: whom to ask.
            length: bytes of the question, if more than usual.
            pauses: seconds for the answer to each repetition.
        """
        left = set(beacons)
        found: dict[Endpoint, Reply] = {}
        for turn, pause in enumerate(pauses):
            sent_at = time.perf_counter()
            for beacon in sorted(left):
                if not self._send(discover(length), beacon):
                    left.discard(beacon)
            with anyio.move_on_after(pause):
                while left:
                    data, source = await self._receive()
                    reflexive = parse_reply(data) if source in left else None
                    if reflexive is not None:
                        rtt = time.perf_counter() - sent_at
                        found[source] = Reply(reflexive, None if turn else rtt)
                        left.discard(source)
            if not left:
                break
        return found

    def open_towards(self, endpoint: Endpoint) -> None:
        """Sends a datagram that a NAT takes for the start of a conversation."""
        self._send(os.urandom(_TOKEN), endpoint)

    async def reaches(self, other: Asking, endpoint: Endpoint) -> bool:
        """Whether a datagram to an endpoint arrives at another socket of ours."""
        token = os.urandom(_TOKEN)
        for _ in _REPEAT:
            self._send(token, endpoint)
            with anyio.move_on_after(_HAIRPIN):
                while True:
                    data, _ = await other._receive()
                    if data == token:
                        return True
        return False

    def _send(self, data: bytes, to: Endpoint) -> bool:
        """Whether the datagram left; it did not if the kernel knows that it is too large."""
        try:
            self._socket.sendto(data, (to.host, to.port))
        except OSError as error:
            return error.errno not in {errno.EMSGSIZE, errno.ENETUNREACH, errno.EHOSTUNREACH}
        return True

    async def _receive(self) -> tuple[bytes, Endpoint]:
        while True:
            await anyio.wait_readable(self._socket)
            with suppress(OSError):
                data, source = self._socket.recvfrom(_READ)
                return data, Endpoint(_resolving.canonical(source[0]), source[1])
