"""The proxy on every event loop, within this process."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from pilotstack import Driver, Stream, _serving
from pilotstack.gateway.guard import Guard
from pilotstack.gateway.mapping import Mapping
from pilotstack.gateway.proxy import Proxy
from pilotstack.services.local import LocalStream, connect
from pilotstack.services.relaying import Carrier, Relays

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def site(stream: Stream) -> None:
    """Answers one request."""
    async with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        await stream.send(ANSWER)


@pytest.fixture
async def proxied(a: Driver, b: Driver) -> AsyncIterator[tuple[Proxy, tuple[str, int], str]]:
    """A proxy, its address, and an agent's site that it reaches."""
    async with (
        await b.listen() as listener,
        Relays(10) as relays,
        anyio.create_task_group() as tasks,
    ):
        with _serving.listen("127.0.0.1", 0) as listening:
            proxy = Proxy(Carrier(a, relays), Mapping(), 10, Guard(()))
            tasks.start_soon(listener.serve, site)
            tasks.start_soon(proxy.serve, listening)
            yield proxy, listening.getsockname(), f"agent-b:{listener.port}"
            tasks.cancel_scope.cancel()


async def read(stream: LocalStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += await stream.receive()
    return data


async def test_requests_follow_each_other_on_a_connection(
    proxied: tuple[Proxy, tuple[str, int], str],
) -> None:
    _, at, site_ = proxied
    async with await connect(*at) as client:
        for _ in range(3):
            await client.send(f"GET http://{site_}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await read(client, b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_tunnels_carry_what_came_with_the_request(
    proxied: tuple[Proxy, tuple[str, int], str],
) -> None:
    _, at, site_ = proxied
    host, _, port = site_.partition(":")
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    asked = {
        b"HTTP/1.1 200 Connection established\r\n\r\n": (
            f"CONNECT {site_} HTTP/1.1\r\nHost: {site_}\r\n\r\n".encode()
        ),
        b"\5\0\5\0\0\1\0\0\0\0\0\0": (
            b"\5\1\0\5\1\0\3%c%s%s" % (len(host), host.encode(), int(port).to_bytes(2))
        ),
    }
    for answer, words in asked.items():
        async with await connect(*at) as client:
            await client.send(words + request)
            assert await read(client, b"hello") == answer + ANSWER


async def test_what_is_cut_short_is_counted(
    proxied: tuple[Proxy, tuple[str, int], str],
) -> None:
    proxy, at, _ = proxied
    for words in (b"", b"\5", b"\5\1\0\5\1", b"\4\4\4", b"GET http://agent-b/ HT"):
        async with await connect(*at) as client:
            await client.send(words)
            await client.send_eof()
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await client.receive()
    with anyio.fail_after(30):
        while proxy.clients:
            await anyio.lowlevel.checkpoint()
    assert proxy.dropped == {"ended": 3, "malformed_http": 2}
