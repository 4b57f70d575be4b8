"""A load generator for ``registry.py``: many connections in one process, each with one request.

It speaks the registry's frames and redis' RESP, so that both are driven by the same code.
``python -m benches.registry_load JSON`` prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from pilotstack.daemon.identity import Identity
from pilotstack.registry.protocol.framing import encode
from pilotstack.registry.protocol.values import encode_base64

if TYPE_CHECKING:
    from collections.abc import Callable

Params = dict[str, Any]


class Refused(Exception):
    """An unsuccessful reply."""


class Dialect(Protocol):
    """A protocol: encodes requests and splits replies."""

    def request(self, number: int) -> bytes:
        """Encodes the request with this number."""

    def length_of_reply(self, data: bytearray) -> int:
        """Length of the first reply; 0 if it is incomplete."""


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(8) * 4)


class Registry:
    """Registrations, lookups or heartbeats."""

    def __init__(self, params: Params) -> None:
        self._nodes = params["nodes"]
        first, count = params.get("first", 1), params["requests"]
        make: Callable[[int], bytes] = getattr(self, f"_{params['kind']}")
        self._frames = [make(number) for number in range(first, first + count)]

    def _register(self, number: int) -> bytes:
        key = encode_base64(identity(number).public_key)
        listen = f"127.0.0.1:{1024 + number % 60_000}"
        challenge = f"register:{listen}:{key}".encode()
        signature = encode_base64(identity(number).sign(challenge))
        request = {"type": "register", "public_key": key, "listen_addr": listen}
        return encode(request | {"signature": signature, "version": "bench"})

    def _lookup(self, number: int) -> bytes:
        return encode({"type": "lookup", "node_id": 1 + number * 7919 % self._nodes})

    def _heartbeat(self, number: int) -> bytes:
        node_id = 1 + (number - 1) % self._nodes
        signature = encode_base64(identity(node_id).sign(f"heartbeat:{node_id}".encode()))
        return encode({"type": "heartbeat", "node_id": node_id, "signature": signature})

    def request(self, number: int) -> bytes:
        return self._frames[number]

    @staticmethod
    def length_of_reply(data: bytearray) -> int:
        if len(data) < 4:
            return 0
        end = 4 + int.from_bytes(data[:4])
        if len(data) < end:
            return 0
        if b'"error"' in data[:end]:
            raise Refused(bytes(data[4:end]))
        return end


class Redis:
    """SET of what a registration stores, and GET."""

    _VALUE = b'{"id":1,"public_key":"%044d","real_addr":"127.0.0.1:4000","version":"bench"}' % 0

    def __init__(self, params: Params) -> None:
        self._kind = params["kind"]
        self._nodes = params["nodes"]
        self._first = params.get("first", 1)

    def request(self, number: int) -> bytes:
        if self._kind == "register":
            words = [b"SET", b"node:%d" % (self._first + number), self._VALUE]
        else:
            words = [b"GET", b"node:%d" % (1 + number * 7919 % self._nodes)]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)

    @staticmethod
    def length_of_reply(data: bytearray) -> int:
        end = data.find(b"\r\n") + 2
        if end == 1:
            return 0
        if data[:1] == b"$":
            end += int(data[1 : end - 2]) + 2
        elif data[:1] != b"+":
            raise Refused(bytes(data[:end]))
        return end if len(data) >= end else 0


class Run:
    """All requests of a measurement, and when each was answered."""

    def __init__(self, dialect: Dialect, params: Params) -> None:
        self.dialect = dialect
        self.total = params["requests"]
        self.sent = 0
        self.done = 0
        self.latencies: list[float] = []
        self.finished = asyncio.get_running_loop().create_future()

    def next_request(self) -> bytes | None:
        if self.sent == self.total:
            return None
        self.sent += 1
        return self.dialect.request(self.sent - 1)

    def answered(self, seconds: float) -> None:
        self.latencies.append(seconds)
        self.done += 1
        if self.done == self.total:
            self.finished.set_result(None)


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = bytearray()
        self._since = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self) -> None:
        if (request := self._run.next_request()) is not None:
            self._since = time.perf_counter()
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while end := self._run.dialect.length_of_reply(self._buffer):
                del self._buffer[:end]
                self._run.answered(time.perf_counter() - self._since)
                self.proceed()
        except Refused as refused:
            self._run.finished.set_exception(refused)

    def proceed(self) -> None:
        self.send()

    def close(self) -> None:
        self._transport.close()


class Paced(Client):
    """A connection with timed requests that do not wait for replies."""

    def proceed(self) -> None:
        pass


async def measure(params: Params) -> dict[str, float]:
    dialect: Dialect = Redis(params) if params.get("dialect") == "redis" else Registry(params)
    run = Run(dialect, params)
    loop = asyncio.get_running_loop()
    pace = params.get("per_second", 0)
    kind = Paced if pace else Client
    clients = []
    for _ in range(params["connections"]):
        address = params["host"], params["port"]
        _, client = await loop.create_connection(lambda: kind(run), *address)
        clients.append(client)
    print(json.dumps({"event": "connected"}), flush=True)
    sys.stdin.readline()
    begin = time.perf_counter()
    if pace:
        await drive(run, clients, pace)
    else:
        for client in clients:
            client.send()
    await run.finished
    seconds = time.perf_counter() - begin
    for client in clients:
        client.close()
    latencies = sorted(run.latencies)
    return {
        "seconds": seconds,
        "per_second": run.total / seconds,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
    }


async def drive(run: Run, clients: list[Client], pace: float) -> None:
    """Sends at a steady rate, in ticks of ten milliseconds."""
    begin = time.perf_counter()
    while run.sent < run.total:
        due = min(run.total, int((time.perf_counter() - begin) * pace))
        while run.sent < due:
            clients[run.sent % len(clients)].send()
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    try:
        import uvloop
    except ImportError:
        print(json.dumps(asyncio.run(measure(arguments))), flush=True)
    else:
        print(json.dumps(uvloop.run(measure(arguments))), flush=True)
