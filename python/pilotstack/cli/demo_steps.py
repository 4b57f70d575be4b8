"""The steps of ``pilotctl demo``: what two agents do with each other, whatever is between them."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from pilotstack import wellknown
from pilotstack.errors import InternalError, PilotError, TimedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.cli.output import Output
    from pilotstack.client import Driver, Stream
    from pilotstack.ipc.answers import PendingHandshake

#: The daemon has services at ports around 1000.
_TRANSFER_PORT = 2001
_NEWS_PORT = 2000
#: Seconds for anything that passes two daemons.
_PATIENCE = 30.0
_LOOK_AGAIN = 0.01
_TRANSFER = 64 * 1_000_000
_BLOCK = 1 << 18
_PAGE = b"<h1>Hello from an agent</h1>\n"


class Demo:
    """Reports the steps, and collects their results."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self.steps: list[dict[str, object]] = []
        #: Whether every step was done.
        self.is_over = False

    def done(self, name: str, text: str, **members: object) -> None:
        """Reports a step."""
        self.steps.append({"step": name, **members})
        if not self._output.is_json:
            self._output.screen.step(name, text)


async def show_info(client: Driver, server: Driver, run: Demo) -> None:
    """Shows a node's state."""
    del server
    info = await client.info()
    run.done("info", f"node {info.node_id}, key {info.public_key[:16]}\u2026", node_id=info.node_id)


async def trust(client: Driver, server: Driver, run: Demo) -> None:
    """Shows that a private node admits only nodes that it trusts."""
    try:
        await client.dial(f"agent-b:{wellknown.ECHO_PORT}", timeout=5)
    except PilotError:
        pass
    else:
        raise InternalError("a private node let a stranger in")
    await client.handshake("agent-b", "to show how it works")
    me = (await client.info()).node_id
    asked = await _request_of(me, server)
    begin = time.perf_counter()
    await server.approve(me)
    if not await client.wait_for_trust("agent-b", _PATIENCE):
        raise InternalError("the trust did not arrive")
    elapsed = (time.perf_counter() - begin) * 1000
    run.done(
        "trust",
        f"agent-b let nobody in, agent-a asked \u201c{asked.justification}\u201d, "
        f"trust {elapsed:.0f} ms after the approval",
        trust_ms=round(elapsed, 1),
    )


async def _request_of(node: int, driver: Driver) -> PendingHandshake:
    """Waits for a request for trust, which the registry pushes to a private node."""
    give_up_at = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up_at:
        for row in await driver.pending():
            if row.node_id == node:
                return row
        await anyio.sleep(_LOOK_AGAIN)
    raise TimedOut("the request for trust did not arrive")


async def ping(client: Driver, server: Driver, run: Demo) -> None:
    """Measures round trips through the tunnel."""
    del server
    times = []
    async with await client.dial(f"agent-b:{wellknown.ECHO_PORT}", no_delay=True) as stream:
        for _ in range(20):
            begin = time.perf_counter()
            await stream.send(b"ping")
            await stream.receive()
            times.append((time.perf_counter() - begin) * 1000)
    best = sorted(times)[len(times) // 2]
    run.done("ping", f"20 round trips, median {best:.3f} ms", median_ms=round(best, 3))


async def serve_http(client: Driver, server: Driver, run: Demo) -> None:
    """Fetches an agent's web page through the overlay."""
    async with (
        await server.listen(wellknown.HTTP_PORT) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, _answer_http)
        async with await client.dial("agent-b:80") as stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: agent-b\r\nConnection: close\r\n\r\n")
            response = b"".join([chunk async for chunk in stream])
        tasks.cancel_scope.cancel()
    head, _, page = response.partition(b"\r\n\r\n")
    if page != _PAGE:
        raise InternalError("the page that came is not the one that was sent")
    status = head.split(b"\r\n")[0].decode()
    run.done("http", f"GET http://agent-b/ \u2192 {status}, {len(page)} bytes", status=status)


async def _answer_http(stream: Stream) -> None:
    async with stream:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive()
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(_PAGE)}\r\n"
            "Connection: close\r\n\r\n"
        )
        await stream.send(head.encode() + _PAGE)
        await stream.send_eof()


async def transfer(client: Driver, server: Driver, run: Demo) -> None:
    """Sends 64 MB with a checksum."""
    received = hashlib.sha256()
    sent = hashlib.sha256()
    begin = time.perf_counter()
    async with await server.listen(_TRANSFER_PORT) as listener:

        async def take() -> None:
            async with await listener.accept() as stream:
                with suppress(anyio.EndOfStream):
                    while True:
                        received.update(await stream.receive())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            async with await client.dial(f"agent-b:{_TRANSFER_PORT}") as stream:
                left = _TRANSFER
                while left:
                    block = os.urandom(min(_BLOCK, left))
                    sent.update(block)
                    await stream.send(block)
                    left -= len(block)
                await stream.send_eof()
                with suppress(anyio.EndOfStream):
                    await stream.receive()
    elapsed = time.perf_counter() - begin
    if received.digest() != sent.digest():
        raise InternalError("the checksums differ")
    rate = _TRANSFER / elapsed / 1e6
    run.done(
        "transfer",
        f"64 MB, SHA-256 equal, {rate:.0f} MB/s with hashing at both ends",
        bytes=_TRANSFER,
        sha256=received.hexdigest(),
        mb_per_s=round(rate, 1),
    )


async def share_network(owner: Driver, member: Driver, other: Driver, run: Demo) -> None:
    """Makes a network with a token, whose members reach each other, and broadcasts to them."""
    token = secrets.token_urlsafe(16)
    network = await owner.create_network("demo", join_rule="token", token=token)
    for driver in (member, other):
        address = await driver.join_network(network, token=token)
    async with await owner.dial((address, wellknown.ECHO_PORT)) as stream:
        await stream.send(b"hello")
        await stream.receive()
    async with (
        await member.datagram(_NEWS_PORT) as first,
        await other.datagram(_NEWS_PORT) as second,
    ):
        sent = await owner.broadcast(network, b"news", port=_NEWS_PORT)
        with anyio.fail_after(_PATIENCE):
            heard = [(await first.receive()).data, (await second.receive()).data]
    if heard != [b"news"] * sent:
        raise InternalError("the broadcast that came is not the one that was sent")
    run.done(
        "network",
        f"3 members by token, agent-c is {address} there, a broadcast reached {sent}",
        network_id=network,
        members=len(await owner.members(network)),
    )


STEPS: tuple[Callable[[Driver, Driver, Demo], Awaitable[None]], ...] = (
    show_info,
    trust,
    ping,
    serve_http,
    transfer,
)
