"""HTTP requests and gRPC calls over the overlay beside the same pair over plain TCP, in one run.

`python benches/http_calls.py`. One server process offers both ways, one client process uses them in
turns: httpx and uvicorn, grpcio at both ends. Daemons and rendezvous are processes of their own.
The ratio is that of the medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import uvicorn

import pilotstack
import pilotstack.asgi
import pilotstack.httpx
from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Ask = Callable[[], Awaitable[object]]

#: What the ratio to plain TCP should be at least.
BUDGET = 0.5
BODY = b"x" * 100
HTTP_PORT, GRPC_PORT = 80, 50051
METHOD = "/bench.Echo/Echo"


async def app(scope: Any, receive: object, send: Any) -> None:
    """Answers with a short body."""
    headers = [(b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


class Echo(grpc.GenericRpcHandler):
    """Echoes unary calls."""

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a method."""

        async def echo(request: bytes, context: object) -> bytes:
            return request

        return grpc.unary_unary_rpc_method_handler(echo) if details.method == METHOD else None


class Plain(uvicorn.Server):
    """uvicorn as it is; says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Starts."""
        await super().startup(sockets)
        self.up.set()


async def serve(socket: str) -> None:
    """The server process; prints where TCP is served, and ends with its stdin."""
    settings: dict[str, Any] = {"lifespan": "off", "log_level": "warning", "access_log": False}
    plain = Plain(uvicorn.Config(app, port=0, **settings))
    with tempfile.TemporaryDirectory() as folder:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Echo(),))
        server.add_insecure_port(f"unix:{folder}/grpc")
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with pilotstack.Driver(socket) as driver:
            await driver.listen(GRPC_PORT, path=f"{folder}/grpc")
            up = asyncio.Event()
            overlay = asyncio.create_task(
                pilotstack.asgi.serve(
                    app, HTTP_PORT, driver=driver, on_listening=lambda _: up.set(), **settings
                )
            )
            tcp = asyncio.create_task(plain.serve())
            await up.wait()
            await plain.up.wait()
            web = plain.servers[0].sockets[0].getsockname()[1]
            print(json.dumps({"http": web, "grpc": port}), flush=True)
            await asyncio.to_thread(sys.stdin.read)
            plain.should_exit = True
            overlay.cancel()
            await asyncio.wait({overlay, tcp})
        await server.stop(0)


async def rate(ask: Ask, seconds: float, parallel: int) -> float:
    """Calls per second: of many at once, those that were made; of one after the other, as many as
    the median takes, since a busy host stretches some of them a hundredfold."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def work() -> None:
        while (begin := time.perf_counter()) < end:
            await ask()
            times.append(time.perf_counter() - begin)

    await ask()
    start = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(parallel):
            tasks.create_task(work())
    if parallel == 1:
        return 1 / statistics.median(times)
    return len(times) / (time.perf_counter() - start)


@asynccontextmanager
async def callers(socket: str, ports: dict[str, int]) -> AsyncIterator[dict[str, tuple[Ask, Ask]]]:
    """What is measured: over the overlay, and over TCP."""
    async with AsyncExitStack() as stack:
        driver = await stack.enter_async_context(pilotstack.Driver(socket))
        transport = pilotstack.httpx.AsyncTransport(driver)
        ours = await stack.enter_async_context(httpx.AsyncClient(transport=transport))
        plain = await stack.enter_async_context(httpx.AsyncClient())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        await driver.forward(f"{folder}/grpc", f"agent-b:{GRPC_PORT}")
        calls: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = []
        for target in (f"unix:{folder}/grpc", f"127.0.0.1:{ports['grpc']}"):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(target))
            calls.append(channel.unary_unary(METHOD))
        yield {
            "httpx + uvicorn": (
                lambda: ours.get("http://agent-b/"),
                lambda: plain.get(f"http://127.0.0.1:{ports['http']}/"),
            ),
            "grpcio": (lambda: calls[0](BODY), lambda: calls[1](BODY)),
        }


async def measure(socket: str, ports: dict[str, int], options: argparse.Namespace) -> None:
    """Prints a row for each pair."""
    async with callers(socket, ports) as pairs:
        for name, both in pairs.items():
            for parallel in (1, 16):
                rounds: list[list[float]] = [[], []]
                for _ in range(options.rounds):
                    for found, ask in zip(rounds, both, strict=True):
                        found.append(await rate(ask, options.seconds, parallel))
                overlay, tcp = (statistics.median(found) for found in rounds)
                print(
                    f"{name:16} {parallel:3} at once   overlay {overlay:7.0f}/s   TCP {tcp:7.0f}/s"
                    f"   ratio {overlay / tcp:.2f}  (budget {BUDGET})",
                    flush=True,
                )


def main() -> None:
    """Measures, or serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", metavar="SOCKET", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    with Network() as net:
        a, b = net.start("agent-a"), net.start("agent-b")
        with subprocess.Popen(
            [sys.executable, __file__, "--serve", str(b.socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as server:
            assert server.stdout is not None
            ports = json.loads(server.stdout.readline())
            asyncio.run(measure(str(a.socket), ports, options))


if __name__ == "__main__":
    main()
