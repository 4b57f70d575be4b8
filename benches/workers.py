"""Load generators for ``throughput.py``: each role runs in a process of its own.

``python benches/workers.py ROLE JSON`` prints one JSON line per result on stdout. Times are
``time.perf_counter`` seconds of this process; sizes are bytes.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import anyio

import pilotstack
from pilotstack.types import parse_host

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

CHUNK = 1 << 18
Params = dict[str, Any]


def driver_of(params: Params) -> pilotstack.Driver:
    """A session with the daemon, in the framed dialect if that is measured."""
    return pilotstack.Driver(params["socket"], framed=params.get("framed", False))


def report(**values: object) -> None:
    print(json.dumps(values), flush=True)


def percentiles(samples: list[float]) -> dict[str, float]:
    """p50 and p99 in microseconds."""
    ordered = sorted(samples)
    return {
        "p50_us": statistics.median(ordered) * 1e6,
        "p99_us": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e6,
        "samples": len(ordered),
    }


async def sink(params: Params) -> None:
    """Accepts ``streams`` streams, reads each to its end, reports bytes and the time they took."""
    total = 0
    first = last = 0.0
    done = anyio.Event()
    open_streams = params["streams"]

    async def drain(stream: ByteStream) -> None:
        nonlocal total, first, last, open_streams
        async with stream:
            try:
                while True:
                    chunk = await stream.receive(CHUNK)
                    total += len(chunk)
                    first = first or time.perf_counter()
            except anyio.EndOfStream:
                last = time.perf_counter()
        open_streams -= 1
        if open_streams == 0:
            done.set()

    async with driver_of(params) as driver:
        listener = await driver.listen(params["port"])
        report(ready=True)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, drain)
            await done.wait()
            group.cancel_scope.cancel()
    report(bytes=total, seconds=last - first)


async def source(params: Params) -> None:
    """Sends ``bytes`` bytes over each of ``streams`` streams."""
    payload = bytes(CHUNK)

    async def pump(stream: ByteStream) -> None:
        left = params["bytes"]
        async with stream:
            while left:
                piece = payload if left >= CHUNK else payload[:left]
                await stream.send(piece)
                left -= len(piece)
            await stream.send_eof()
            try:
                while True:
                    await stream.receive()
            except anyio.EndOfStream:
                pass

    async with (
        driver_of(params) as driver,
        anyio.create_task_group() as group,
    ):
        for _ in range(params["streams"]):
            group.start_soon(
                pump, await driver.dial((parse_host(params["address"]), params["port"]))
            )
    report(done=True)


async def echo_throughput(params: Params) -> None:
    """Sends ``bytes`` bytes through the peer's echo service and reads them back."""
    payload = bytes(CHUNK)
    async with (
        driver_of(params) as driver,
        await driver.dial((parse_host(params["address"]), 7)) as stream,
        anyio.create_task_group() as group,
    ):
        started = time.perf_counter()

        async def send() -> None:
            left = params["bytes"]
            while left:
                piece = payload[: min(left, CHUNK)]
                await stream.send(piece)
                left -= len(piece)

        group.start_soon(send)
        left = params["bytes"]
        while left:
            left -= len(await stream.receive(CHUNK))
        report(bytes=params["bytes"], seconds=time.perf_counter() - started)


async def echo_latency(params: Params) -> None:
    """Round trips of ``size`` bytes, one at a time, on an established stream."""
    payload = bytes(params["size"])
    samples = []
    async with (
        driver_of(params) as driver,
        await driver.dial((parse_host(params["address"]), 7), no_delay=True) as stream,
    ):
        for turn in range(params["count"] + 200):
            started = time.perf_counter()
            await stream.send(payload)
            left = len(payload)
            while left:
                left -= len(await stream.receive(left))
            if turn >= 200:  # the first ones warm caches and timers
                samples.append(time.perf_counter() - started)
    report(**percentiles(samples))


async def dial_latency(params: Params) -> None:
    """Dials to the echo port, one at a time, over a warm tunnel."""
    samples = []
    async with driver_of(params) as driver:
        for turn in range(params["count"] + 50):
            started = time.perf_counter()
            stream = await driver.dial((parse_host(params["address"]), 7))
            if turn >= 50:
                samples.append(time.perf_counter() - started)
            await stream.aclose()
    report(**percentiles(samples))


async def parallel_dials(params: Params) -> None:
    """``count`` dials at once; every stream then echoes its own number."""
    async with driver_of(params) as driver:
        streams: list[ByteStream] = []

        async def dial() -> None:
            streams.append(await driver.dial((parse_host(params["address"]), 7)))

        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(params["count"]):
                group.start_soon(dial)
        seconds = time.perf_counter() - started
        good = 0

        async def check(number: int, stream: ByteStream) -> None:
            nonlocal good
            expected = b"%08d" % number
            await stream.send(expected)
            got = b""
            while len(got) < len(expected):
                got += await stream.receive()
            good += got == expected
            await stream.aclose()

        async with anyio.create_task_group() as group:
            for number, stream in enumerate(streams):
                group.start_soon(check, number, stream)
    report(seconds=seconds, connected=len(streams), correct=good)


async def hold(params: Params) -> None:
    """Opens ``count`` idle streams, then waits for a line on stdin."""
    async with driver_of(params) as driver:
        streams = [
            await driver.dial((parse_host(params["address"]), 7)) for _ in range(params["count"])
        ]
        report(ready=True, connected=len(streams))
        await anyio.to_thread.run_sync(sys.stdin.readline)


async def tcp_sink(params: Params) -> None:
    """The same sink over kernel TCP, for scale."""
    server = socket.create_server(("127.0.0.1", 0))
    report(ready=True, port=server.getsockname()[1])
    peer, _ = server.accept()
    total = 0
    first = 0.0
    buffer = bytearray(CHUNK)
    while got := peer.recv_into(buffer):
        first = first or time.perf_counter()
        total += got
    report(bytes=total, seconds=time.perf_counter() - first)


async def tcp_source(params: Params) -> None:
    """The same source over kernel TCP, for scale."""
    peer = socket.create_connection(("127.0.0.1", params["port"]))
    payload = bytes(CHUNK)
    for _ in range(params["bytes"] // CHUNK):
        peer.sendall(payload)
    peer.close()
    report(done=True)


async def aes_gcm(params: Params) -> None:
    """AES-256-GCM on one core: packets of ``size`` bytes, for scale."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(bytes(32))
    packet = bytes(params["size"])
    rounds = params["bytes"] // params["size"]
    started = time.perf_counter()
    for _ in range(rounds):
        cipher.encrypt(bytes(12), packet, None)
    report(bytes=rounds * len(packet), seconds=time.perf_counter() - started)


ROLES: dict[str, Callable[[Params], Awaitable[None]]] = {
    role.__name__: role
    for role in (
        sink,
        source,
        echo_throughput,
        echo_latency,
        dial_latency,
        parallel_dials,
        hold,
        tcp_sink,
        tcp_source,
        aes_gcm,
    )
}


if __name__ == "__main__":
    anyio.run(
        ROLES[sys.argv[1]],
        json.loads(sys.argv[2]),
        backend="asyncio",
        backend_options={"use_uvloop": True},
    )
