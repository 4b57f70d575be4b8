"""Traffic between two daemons, recorded and impaired by a relay."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.support.relayed import relayed_pair

from pilotstack import Driver, Stream

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.testing import Network

pytestmark = pytest.mark.anyio
#: Bytes moved over the impaired path; the full size is moved by hand and by benchmarks.
IMPAIRED = int(os.environ.get("PILOT_TEST_IMPAIRED_BYTES", 30_000_000))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_recorded_datagrams_reveal_nothing(network: Network, tmp_path: Path) -> None:
    secret = b"the quick brown fox jumps over the lazy dog "
    request = b"GET /secret HTTP/1.1\r\nHost: agent-b\r\n\r\n"
    capture = tmp_path / "capture"

    async def answer(stream: Stream) -> None:
        async with stream:
            assert await stream.receive() == request
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n" + secret * 1000)
            await stream.send_eof()

    with relayed_pair(network, capture=capture) as (a, b, _):
        async with (
            Driver(a.socket) as client,
            Driver(b.socket) as server,
            await server.listen(80) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, answer)
            async with await client.dial("agent-b:80") as stream:
                await stream.send(request)
                response = b"".join([chunk async for chunk in stream])
            tasks.cancel_scope.cancel()
    assert response.endswith(secret)
    wire = capture.read_bytes()
    assert len(wire) > len(response)
    for part in (secret[:16], b"HTTP/1.1", b"GET /secret", b"200 OK"):
        assert part not in wire
    assert b"PILT" not in wire


@pytest.mark.timeout(600)
async def test_sequence_numbers_wrap_on_one_connection(shared_network: Network) -> None:
    total = (1 << 32) + 50_000_000
    # A prime length: no shift by a window or a power of two maps the pattern onto itself.
    period = 1_048_573
    pattern = memoryview(os.urandom(period) * 2)
    arrived = 0

    async def take(stream: Stream) -> None:
        nonlocal arrived
        async with stream:
            async for chunk in stream:
                at = arrived % period
                assert chunk == pattern[at : at + len(chunk)], f"wrong after byte {arrived}"
                arrived += len(chunk)

    a, b = shared_network.nodes["agent-a"], shared_network.nodes["agent-b"]
    async with (
        Driver(a.socket) as client,
        Driver(b.socket) as server,
        await server.listen(1003) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, take)
        async with await client.dial("agent-b:1003") as stream:
            sent = 0
            while sent < total:
                block = min(1 << 18, total - sent)
                at = sent % period
                await stream.send(bytes(pattern[at : at + block]))
                sent += block
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        tasks.cancel_scope.cancel()
    assert arrived == total


@pytest.mark.timeout(600)
async def test_a_transfer_survives_loss_duplication_and_reordering(network: Network) -> None:
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def take(stream: Stream) -> None:
        async with stream:
            async for chunk in stream:
                received.update(chunk)

    impairment = {"drop": 0.01, "duplicate": 0.01, "reorder": 0.01, "seed": 7}
    with relayed_pair(network, **impairment) as (a, b, counters):
        async with (
            Driver(a.socket) as client,
            Driver(b.socket) as server,
            await server.listen(4710) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, take)
            async with await client.dial("agent-b:4710") as stream:
                left = IMPAIRED
                while left:
                    block = os.urandom(min(left, 1 << 18))
                    sent.update(block)
                    await stream.send(block)
                    left -= len(block)
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            tasks.cancel_scope.cancel()
    assert received.digest() == sent.digest()
    assert min(counters[0]["to_b"].values()) > 0
