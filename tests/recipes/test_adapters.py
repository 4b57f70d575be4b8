"""The adapters beyond their recipes: errors, restarts, TLS, who the peer is, one command."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import trustme
from anyio.streams.tls import TLSStream

import pilotstack
import pilotstack.aiohttp
import pilotstack.asgi
import pilotstack.asyncio
import pilotstack.httpx
import pilotstack.requests
from pilotstack import Driver, sync
from pilotstack.errors import AlreadyExists, ConnectionRefused, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pilotstack import Stream
    from pilotstack.testing import Network

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).parents[2]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def socket_of(network: Network, name: str) -> str:
    return str(network.nodes[name].socket)


@asynccontextmanager
async def serving(
    network: Network, handler: Callable[[Stream], Awaitable[None]]
) -> AsyncIterator[int]:
    """The port on which agent-b has a handler."""
    async with (
        Driver(socket_of(network, "agent-b")) as driver,
        driver.listen() as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handler)
        yield listener.port
        tasks.cancel_scope.cancel()


async def answer(stream: Stream) -> None:
    async with stream:
        async for _ in stream:
            await stream.send(ANSWER)


@pytest.mark.anyio
async def test_httpx_on_every_event_loop(shared_network: Network) -> None:
    transport = pilotstack.httpx.AsyncTransport(socket_path=socket_of(shared_network, "agent-a"))
    async with (
        serving(shared_network, answer) as port,
        httpx.AsyncClient(transport=transport) as web,
    ):
        for _ in range(2):
            assert (await web.get(f"http://agent-b:{port}/")).text == "ok"
        node = shared_network.nodes["agent-b"].node_id
        assert (await web.post(f"http://{node}:{port}/", content=b"x" * 1000)).text == "ok"


@pytest.mark.anyio
async def test_errors_of_httpx_have_ours_as_their_cause(shared_network: Network) -> None:
    def cause(error: BaseException) -> BaseException | None:
        return error.__cause__

    async def silent(stream: Stream) -> None:
        async with stream:
            await anyio.sleep_forever()

    async def rude(stream: Stream) -> None:
        await stream.receive()
        raise RuntimeError("on purpose")

    transport = pilotstack.httpx.AsyncTransport(socket_path=socket_of(shared_network, "agent-a"))
    async with httpx.AsyncClient(transport=transport) as web:
        with pytest.raises(httpx.ConnectError) as caught:
            await web.get("http://nobody/")
        assert isinstance(cause(caught.value), NotFound)
        with pytest.raises(httpx.ConnectError) as caught:
            await web.get("http://agent-b:9/")
        assert isinstance(cause(caught.value), ConnectionRefused)
        async with serving(shared_network, silent) as port:
            with pytest.raises(httpx.ReadTimeout):
                await web.get(f"http://agent-b:{port}/", timeout=0.2)
        async with (
            Driver(socket_of(shared_network, "agent-b")) as driver,
            driver.listen() as listener,
            anyio.create_task_group() as tasks,
        ):

            async def serve() -> None:
                await listener.serve(rude, on_error=lambda error, stream: None)

            tasks.start_soon(serve)
            with pytest.raises(httpx.ReadError, match="reset"):
                await web.get(f"http://agent-b:{listener.port}/")
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_tls_inside_of_a_tunnel(shared_network: Network) -> None:
    authority = trustme.CA()
    server, client = (
        ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    authority.issue_cert("agent-b").configure_cert(server)
    authority.configure_trust(client)

    async def secure(stream: Stream) -> None:
        async with await TLSStream.wrap(stream, ssl_context=server, server_side=True) as wrapped:
            await wrapped.receive()
            await wrapped.send(ANSWER)

    path = socket_of(shared_network, "agent-a")
    async with serving(shared_network, secure) as port:
        url = f"https://agent-b:{port}/"
        transport = pilotstack.httpx.AsyncTransport(socket_path=path, ssl_context=client)
        async with httpx.AsyncClient(transport=transport) as web:
            assert (await web.get(url)).text == "ok"

        def blocking() -> str:
            plain = pilotstack.httpx.Transport(socket_path=path, ssl_context=client)
            with httpx.Client(transport=plain) as web:
                return web.get(url).text

        assert await anyio.to_thread.run_sync(blocking) == "ok"


@pytest.mark.anyio
async def test_a_driver_of_its_own_survives_a_restart_of_the_daemon(network: Network) -> None:
    network.start("agent-b")
    first = network.start("agent-a")
    transport = pilotstack.httpx.AsyncTransport(socket_path=first.socket)
    blocking = pilotstack.httpx.Transport(socket_path=first.socket)
    async with serving(network, answer) as port, httpx.AsyncClient(transport=transport) as web:
        with httpx.Client(transport=blocking) as plain:
            url = f"http://agent-b:{port}/"
            for _ in range(2):
                assert (await web.get(url, headers={"Connection": "close"})).text == "ok"
                shown = await anyio.to_thread.run_sync(
                    lambda: plain.get(url, headers={"Connection": "close"})
                )
                assert shown.text == "ok"
                await anyio.to_thread.run_sync(network.nodes["agent-a"].process.stop)
                await anyio.to_thread.run_sync(network.start, "agent-a")


@pytest.mark.asyncio
async def test_drivers_of_the_program_are_used_and_stay_open(shared_network: Network) -> None:
    path = socket_of(shared_network, "agent-a")
    async with serving(shared_network, answer) as port, Driver(path) as driver:
        url = f"http://agent-b:{port}/"
        async with httpx.AsyncClient(transport=pilotstack.httpx.AsyncTransport(driver)) as web:
            assert (await web.get(url)).text == "ok"
        assert (await driver.info()).hostname == "agent-a"
        with sync.Driver(path) as plain:

            def blocking() -> bytes:
                with pilotstack.requests.PoolManager(plain) as pools:
                    data: bytes = pools.request("GET", url).data
                    pools.close()
                    return data

            assert await asyncio.to_thread(blocking) == b"ok"
            assert plain.info().hostname == "agent-a"


async def spoofable(scope: Any, receive: Any, send: Any) -> None:
    peer = pilotstack.asgi.peer_of(scope)
    seen = f"{scope['client'][0]} {peer and peer.node_id}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": seen})


@pytest.mark.asyncio
async def test_no_header_changes_who_the_peer_is(
    shared_network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    up = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        pilotstack.asgi.serve(
            spoofable,
            0,
            socket_path=socket_of(shared_network, "agent-b"),
            on_listening=up.set_result,
            lifespan="off",
            log_level="warning",
        )
    )
    node = shared_network.nodes["agent-a"]
    transport = pilotstack.httpx.AsyncTransport(socket_path=node.socket)
    async with httpx.AsyncClient(transport=transport) as web:
        headers = {"X-Forwarded-For": "0:0000.0000.FFFF"}
        shown = await web.get(f"http://agent-b:{await up}/", headers=headers)
    assert shown.text == f"{node.address} {node.node_id}"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_scope_of_a_plain_server_has_no_peer() -> None:
    assert pilotstack.asgi.peer_of({"type": "http", "client": ("127.0.0.1", 1)}) is None


@pytest.mark.asyncio
async def test_protocols_of_asyncio_know_the_peer(shared_network: Network) -> None:
    class Told(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(repr(transport.get_extra_info("peername")).encode())
            transport.close()

    a, b = (socket_of(shared_network, name) for name in ("agent-a", "agent-b"))
    async with await pilotstack.asyncio.create_server(Told, socket_path=b) as server:
        assert server.is_serving()
        with pytest.raises(AlreadyExists):
            await pilotstack.asyncio.create_server(Told, server.port, socket_path=b)
        reader, writer = await pilotstack.asyncio.open_connection(
            ("agent-b", server.port), socket_path=a
        )
        assert writer.get_extra_info("pilot").port == server.port
        shown = await reader.read()
        address = shared_network.nodes["agent-a"].address
        assert shown == repr((address, writer.get_extra_info("sockname")[1])).encode()
        writer.close()
    assert not server.is_serving()


@pytest.mark.asyncio
async def test_what_handlers_raise_is_reported_and_the_server_goes_on(
    shared_network: Network,
) -> None:
    told = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.set_result(what))

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise RuntimeError("on purpose")

    a, b = (socket_of(shared_network, name) for name in ("agent-a", "agent-b"))
    async with await pilotstack.asyncio.start_server(fail, socket_path=b) as server:
        target = ("agent-b", server.port)
        reader, writer = await pilotstack.asyncio.open_connection(target, socket_path=a)
        assert await reader.read() == b""
        writer.close()
        assert str((await told)["exception"]) == "on purpose"
        assert server.is_serving()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_command_serves_an_application(shared_network: Network, number: signal.Signals) -> None:
    a, b = (socket_of(shared_network, name) for name in ("agent-a", "agent-b"))
    command = [sys.executable, "-c", "from pilotstack._entry import pilotstack_serve as run; run()"]
    arguments = ["app:app", "--app-dir", str(ROOT / "examples" / "recipes"), "--port", "0"]
    server = subprocess.Popen(
        [*command, *arguments, "--socket", b],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        with httpx.Client(transport=pilotstack.httpx.Transport(socket_path=a)) as web:
            shown = web.get(f"http://agent-b:{ready['port']}/x").text
        assert shown == f"hello {shared_network.nodes['agent-a'].address}, this is /x"
        server.send_signal(number)
        _, log = server.communicate()
        assert '"GET /x HTTP/1.1" 200 OK' in log
        assert server.returncode == 0
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["app:app", "--socket", "/nowhere/at/all"], '"not_running"'), (["absent:app"], "absent")],
)
def test_one_command_says_why_it_does_not_serve(arguments: list[str], code: str) -> None:
    command = [sys.executable, "-c", "from pilotstack._entry import pilotstack_serve as run; run()"]
    folder = ["--app-dir", str(ROOT / "examples" / "recipes")]
    result = subprocess.run(
        [*command, *folder, *arguments], capture_output=True, text=True, check=False
    )
    assert code in result.stderr
    assert (result.stdout, result.returncode > 0) == ("", True)
