"""A proxy for browsers, curl and HTTP libraries: SOCKS 5 and HTTP on one port.

The first byte tells which. Names are resolved on the overlay. What a client sends before it is
connected is bounded in bytes and in time.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack import _events
from pilotstack.gateway import socks
from pilotstack.gateway.http_proxy import BadRequest, HttpProxy
from pilotstack.gateway.targets import target_of
from pilotstack.services.local import LocalStream, accept_forever, close_gently

if TYPE_CHECKING:
    import socket as sockets

    from pilotstack.errors import PilotError
    from pilotstack.gateway.guard import Guard
    from pilotstack.gateway.mapping import Mapping
    from pilotstack.services.relaying import Carrier

log = _events.get_logger(__name__)

#: Seconds until a client has said what it wants.
HANDSHAKE: Final = 10.0


class Proxy:
    """Serves clients of a proxy.

    Args:
        carrier: who reaches agents.
        mapping: whose local IPs count as names of agents.
        limit: of clients.
        guard: who may connect.
    """

    def __init__(self, carrier: Carrier, mapping: Mapping, limit: int, guard: Guard) -> None:
        self._carrier = carrier
        self._mapping = mapping
        self._limit = limit
        self._guard = guard
        #: Clients that are connected.
        self.clients = 0
        #: Those that were dropped, by reason.
        self.dropped: Counter[str] = Counter()

    async def serve(self, listening: sockets.socket) -> None:
        """Serves those that connect to a listening TCP socket, until cancelled."""
        await accept_forever(listening, self._guard.guarded(self.handle))

    async def handle(self, local: LocalStream) -> None:
        """Serves a client, and closes its connection."""
        if self.clients >= self._limit:
            self._drop("limit")
            return
        self.clients += 1
        try:
            await self._handle(local)
        except TimeoutError:
            self._drop("timeout")
        except BadRequest:
            self._drop("malformed_http")
        except socks.Malformed as error:
            self._drop("malformed_socks")
            with suppress(anyio.BrokenResourceError):
                await local.send(error.answer)
                await close_gently(local)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._drop("ended")
        finally:
            self.clients -= 1
            local.reset()

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1
        log.debug("client_dropped", reason=reason)

    async def _handle(self, local: LocalStream) -> None:
        with anyio.fail_after(HANDSHAKE):
            data = await local.receive(socks.MAX_MESSAGE)
        if data[0] != socks.VERSION:
            await HttpProxy(local, self._carrier, self._mapping).serve(data)
            return
        with anyio.fail_after(HANDSHAKE):
            while (greeted := socks.parse_greeting(data)) is None:
                data += await local.receive(socks.MAX_MESSAGE)
            greeting, end = greeted
            await local.send(greeting.answer)
            if not greeting.is_acceptable:
                raise socks.Malformed("authentication is not offered")
            data = data[end:]
            while (asked := socks.parse_request(data)) is None:
                data += await local.receive(socks.MAX_MESSAGE)
        request, end = asked
        await self._connect(local, request, data[end:])

    async def _connect(self, local: LocalStream, request: socks.Connect, early: bytes) -> None:
        from pilotstack.errors import PilotError

        def answer(error: PilotError | None) -> bytes:
            return socks.reply_to(error) if error else socks.reply(socks.Reply.SUCCEEDED)

        try:
            target = target_of(request.host, request.port, self._mapping)
        except PilotError as error:
            await local.send(answer(error))
            await close_gently(local)
            return
        await self._carrier.outward(local, target, early=early, answer=answer)
