"""Load generators for ``services.py``: each role runs in a process of its own.

``python benches/service_workers.py ROLE JSON`` prints one JSON line per result on stdout. Times are
``time.perf_counter`` seconds, which all processes of a host share; sizes are bytes.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from pilotstack import Driver, _serving
from pilotstack.services import data_exchange
from pilotstack.services import event_stream as events
from pilotstack.services.event_stream.codec import Event, encode
from pilotstack.types import parse_host

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

Params = dict[str, Any]

#: Bytes of an event's payload, which begins with the time when it was published.
PAYLOAD = 100
TOPIC = "bench"
READ = 1 << 18


def report(**values: object) -> None:
    print(json.dumps(values), flush=True)


def peak_rss() -> int:
    """The most bytes that this process had in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells it")


async def send_file(params: Params) -> None:
    """Sends a file to a daemon."""
    async with (
        Driver(params["socket"]) as driver,
        data_exchange.connect(driver, parse_host(params["address"])) as peer,
    ):
        begin = time.perf_counter()
        sent = await peer.send_file(params["path"])
        seconds = time.perf_counter() - begin
    report(bytes=sent.size, seconds=seconds, peak_rss=peak_rss())


class Arrivals:
    """Counts events of a fixed size, and how long each was on its way."""

    def __init__(self, count: int, layout: str, noise: bytes = b"") -> None:
        self._layout = struct.Struct(layout)
        self._noise = noise
        self._left = count
        self.seconds: list[float] = []
        self.done = anyio.Event()
        self.last = 0.0

    async def take(self, stream: ByteStream, count: int) -> None:
        """Reads so many events."""
        rest = b""
        size = self._layout.size
        while count:
            rest += await stream.receive(READ)
            now = time.perf_counter()
            if self._noise:
                rest = rest.replace(self._noise, b"")
            whole = len(rest) // size * size
            for (sent,) in self._layout.iter_unpack(rest[:whole]):
                self.seconds.append(now - sent)
            count -= whole // size
            self._left -= whole // size
            rest = rest[whole:]
        self.last = time.perf_counter()
        if self._left <= 0:
            self.done.set()


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1e3,
    }


async def subscribers(params: Params) -> None:
    """Subscribes so many times, and takes so many events each."""
    _serving.raise_file_limit()
    count, each = params["count"], params["events"]
    head = len(encode(Event(TOPIC, b"")))
    arrivals = Arrivals(count * each, f">{head}xd{PAYLOAD - 8}x")
    streams: list[ByteStream] = []
    dials = anyio.CapacityLimiter(64)

    async with Driver(params["socket"]) as driver, anyio.create_task_group() as tasks:
        address = parse_host(params["address"])

        async def dial() -> None:
            async with dials:
                stream = await driver.dial((address, 1002))
                # As an existing node subscribes: nothing but events comes.
                await stream.send(encode(Event(TOPIC)))
                streams.append(stream)

        async with anyio.create_task_group() as dialling:
            for _ in range(count):
                dialling.start_soon(dial)
        report(ready=True)
        for stream in streams:
            tasks.start_soon(arrivals.take, stream, each)
        with anyio.move_on_after(params["seconds"]):
            await arrivals.done.wait()
        tasks.cancel_scope.cancel()
    finish(arrivals, count * each)


def finish(arrivals: Arrivals, expected: int) -> None:
    got = len(arrivals.seconds)
    report(events=got, lost=expected - got, last=arrivals.last, **percentiles(arrivals.seconds))


async def publisher(params: Params) -> None:
    """Publishes so many events, so many in a second or as fast as it can."""
    async with (
        Driver(params["socket"]) as driver,
        events.publish_to(driver, parse_host(params["address"])) as publish,
    ):

        async def one() -> None:
            await publish.publish(TOPIC, stamped())

        begin = await paced(one, params["events"], params["rate"])
        await publish.flush()
    report(begin=begin, seconds=time.perf_counter() - begin)


def stamped() -> bytes:
    return struct.pack(">d", time.perf_counter()) + bytes(PAYLOAD - 8)


async def paced(one: Callable[[], Awaitable[None]], count: int, rate: float) -> float:
    begin = time.perf_counter()
    for number in range(count):
        if rate:
            wait = begin + number / rate - time.perf_counter()
            if wait > 0:
                await anyio.sleep(wait)
        await one()
    return begin


# The same with a NATS server over TCP, in its own text protocol


async def nats_subscribers(params: Params) -> None:
    """As :func:`subscribers`."""
    _serving.raise_file_limit()
    count, each = params["count"], params["events"]
    head = len(f"MSG {TOPIC} 1 {PAYLOAD}\r\n")
    arrivals = Arrivals(count * each, f">{head}xd{PAYLOAD - 8 + 2}x", b"PING\r\n")
    streams = [await nats(params["port"]) for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for stream in streams:
            await stream.send(f"SUB {TOPIC} 1\r\nPING\r\n".encode())
            assert await stream.receive() == b"PONG\r\n"
        report(ready=True)
        for stream in streams:
            tasks.start_soon(arrivals.take, stream, each)
        with anyio.move_on_after(params["seconds"]):
            await arrivals.done.wait()
        tasks.cancel_scope.cancel()
    finish(arrivals, count * each)
    for stream in streams:
        await stream.aclose()


async def nats(port: int) -> ByteStream:
    stream = await anyio.connect_tcp("127.0.0.1", port)
    info = b""
    while not info.endswith(b"\r\n"):
        info += await stream.receive()
    await stream.send(b'CONNECT {"verbose":false,"echo":false}\r\n')
    return stream


async def nats_publisher(params: Params) -> None:
    """As :func:`publisher`."""
    stream = await nats(params["port"])

    async def one() -> None:
        await stream.send(f"PUB {TOPIC} {PAYLOAD}\r\n".encode() + stamped() + b"\r\n")

    async with stream:
        begin = await paced(one, params["events"], params["rate"])
        await stream.send(b"PING\r\n")
        await stream.receive()
    report(begin=begin, seconds=time.perf_counter() - begin)


ROLES = {
    "send_file": send_file,
    "subscribers": subscribers,
    "publisher": publisher,
    "nats_subscribers": nats_subscribers,
    "nats_publisher": nats_publisher,
}

if __name__ == "__main__":
    anyio.run(ROLES[sys.argv[1]], json.loads(sys.argv[2]))
