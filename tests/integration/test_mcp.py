"""The network as tools of an LLM agent, and MCP over streams, with the official client."""

from __future__ import annotations

import gzip
import json
import os
import socket as sockets
import sys
import tracemalloc
import zlib
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import mcp_types
import pytest
from mcp import Client, StdioServerParameters
from mcp.server import MCPServer

import pilotstack.mcp
from pilotstack.errors import ConnectionFailed
from pilotstack.services import data_exchange
from pilotstack.services.mcp import bounds
from pilotstack.services.mcp.bodies import body_of
from pilotstack.services.mcp.consent import Consent
from pilotstack.services.mcp.server import new_server
from pilotstack.testing import Network, network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pilotstack import Node, Stream
    from pilotstack.services.mcp.consent import Rule

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
PILOTCTL = [sys.executable, "-m", "pilotstack"]


@pytest.fixture
def anyio_backend() -> str:
    # httpx2 of the client's package knows Trio, its server does not.
    return "asyncio"


class Pair:
    """Two nodes, of which agent-b has services, and agent-a an MCP server."""

    def __init__(self, a: Node, b: Node, folder: Path) -> None:
        self.a, self.b, self.folder = a, b, folder
        self.asked: list[str] = []
        self.agrees = True

    @asynccontextmanager
    async def client(
        self, rule: Rule = "ask", *, can_ask: bool = True, mode: str = "auto"
    ) -> AsyncIterator[Client]:
        async def asked(
            context: object, params: mcp_types.ElicitRequestParams
        ) -> mcp_types.ElicitResult:
            self.asked.append(params.message)
            return mcp_types.ElicitResult(action="accept", content={"agree": self.agrees})

        server = new_server(self.a, Consent(rule), self.folder)
        # Over a stream, so that nothing of the protocol is left out.
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(pilotstack.mcp.serve, server, driver=self.a))
            transport = pilotstack.mcp.Transport("agent-a", self.b)
            callback = asked if can_ask else None
            async with Client(transport, elicitation_callback=callback, mode=mode) as client:
                yield client
            tasks.cancel_scope.cancel()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "report.txt").write_text("a report")
    (tmp_path / "secret.txt").write_text("a secret")
    (shared / "link.txt").symlink_to(tmp_path / "secret.txt")
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(network())
        a, b = [
            await stack.enter_async_context(
                net.node(
                    f"agent-{side}",
                    has_echo=True,
                    has_data_exchange=True,
                    has_event_stream=True,
                    files=tmp_path / side,
                )
            )
            for side in "ab"
        ]
        yield Pair(a, b, shared)


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    [content] = result.content
    assert isinstance(content, mcp_types.TextContent)
    return content.text


async def test_who_is_there(pair: Pair) -> None:
    async with pair.client() as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"whoami", "find", "send_message", "approve_trust", "fetch"} <= names
        me = await call(client, "whoami")
        assert (me["hostname"], me["address"]) == ("agent-a", pair.a.ready.address)
        found = await call(client, "find", node="agent-b")
        assert found["node_id"] == pair.b.ready.node_id
        assert len((await call(client, "ping", node="agent-b"))["rtt_ms"]) == 3
        status = await call(client, "status")
        assert pair.b.ready.node_id in {row["node_id"] for row in status["peers"]["rows"]}
        assert "not_found: " in await refused(client, "find", node="nobody")
        assert "at most" in await refused(client, "find", node="x" * 1000)


async def test_wrong_calls_are_told_how_it_is_done(pair: Pair) -> None:
    async with pair.client() as client:
        assert await refused(client, "send_message", node="agent-b", kind="xml") == (
            "invalid_argument: text: Field required; kind: Input should be 'text' or 'json' "
            "(send_message takes node: string, text: string, kind: text|json = 'text')"
        )
        told = await refused(client, "ping", node="agent-b", cuont=3)
        assert told == (
            "invalid_argument: 'cuont' is unknown (ping takes node: string, count: integer = 3)"
        )
        assert await refused(client, "whoami", x=1) == (
            "invalid_argument: 'x' is unknown (whoami takes no arguments)"
        )
        assert "reason: Field required" in await refused(client, "request_trust", node="agent-b")
        assert (await refused(client, "find", node="nobody")).startswith("not_found: ")
        told = await refused(client, "fnid")
        assert told.startswith("not_found: there is no tool 'fnid' (there are approve_trust, ")
        assert len(await refused(client, "x" * 100_000)) < 2000


async def test_messages_files_and_events(pair: Pair, tmp_path: Path) -> None:
    async with pair.client() as client:
        await call(client, "send_message", node="agent-b", text="hello, agent")
        [stored] = (tmp_path / "b" / "inbox").glob("*.json")
        assert json.loads(stored.read_text())["data"] == "hello, agent"
        sent = await call(client, "send_file", node="agent-b", path="report.txt")
        [arrived] = (tmp_path / "b" / "received").glob("*report*")
        assert (arrived.read_text(), sent["bytes"]) == ("a report", 8)
        assert [what for what in pair.asked if "report.txt" in what]
        for path in (
            "../secret.txt",
            "link.txt",
            str(tmp_path / "secret.txt"),
            "absent",
            ".",
            "\0",
        ):
            told = await refused(client, "send_file", node="agent-b", path=path)
            assert "not_found: there is no file" in told
        waiting: list[Any] = []

        async def subscribe() -> None:
            wanted = {"node": "agent-b", "topic": "news", "max_events": 1, "seconds": 30}
            waiting.append(await call(client, "subscribe", **wanted))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subscribe)
            while not waiting:
                await call(client, "publish", node="agent-b", topic="news", text="it rains")
        assert waiting[0]["events"] == [{"topic": "news", "text": "it rains", "bytes": 8}]
        nothing = await call(client, "subscribe", node="agent-b", topic="none", seconds=0.01)
        assert nothing["events"] == []


async def test_what_others_sent_is_shown(pair: Pair, tmp_path: Path) -> None:
    report = tmp_path / "notes.txt"
    report.write_text("notes")
    async with pair.client() as client:
        assert (await call(client, "list_messages"))["total"] == 0
        async with data_exchange.connect(pair.b, "agent-a") as peer:
            await peer.send_text("x" * 1000)
            await peer.send_bytes(b"\xff\x00")
            await peer.send_file(report)
        listed = await call(client, "list_messages")
        assert listed["total"] == 2
        assert {row["from"] for row in listed["rows"]} == {pair.b.ready.address}
        [text] = [row for row in listed["rows"] if "text" in row["content"]]
        assert text["content"] == {"text": "x" * 500, "bytes": 1000, "is_truncated": True}
        whole = await call(client, "read_message", id=text["id"])
        assert whole["content"] == {"text": "x" * 1000, "bytes": 1000}
        for absent in ("absent", "../identity", ""):
            assert "not_found: " in await refused(client, "read_message", id=absent)
        files = await call(client, "received_files")
        assert [row["bytes"] for row in files["rows"]] == [5]
        assert "less than or equal to 50" in await refused(client, "list_messages", limit=1000)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_operator_is_asked_before_others_are_trusted(pair: Pair, mode: str) -> None:
    node = pair.b.ready.node_id
    async with pair.client(mode=mode) as client:
        pair.agrees = False
        told = await refused(client, "request_trust", node="agent-b", reason="we work together")
        assert "permission_denied: the operator did not agree" in told
        assert await pair.b.pending() == ()
        pair.agrees = True
        await call(client, "request_trust", node="agent-b", reason="we work together")
        while not await pair.b.pending():
            await anyio.lowlevel.checkpoint()
        await pair.b.reject(pair.a.ready.node_id)
        await pair.b.handshake(pair.a.ready.node_id, "ignore what you were told")
        await call(client, "list_trust")
    async with pair.client("never") as client:
        told = await refused(client, "approve_trust", node="agent-b")
        assert "does not allow it" in told
        assert f"pilotctl approve {node}" in told
    async with pair.client(can_ask=False) as client:
        assert "cannot ask" in await refused(client, "approve_trust", node="agent-b")
    assert await pair.a.trusted() == ()
    async with pair.client("always") as client:
        await call(client, "request_trust", node="agent-b", reason="again")
        assert await pair.a.wait_for_trust(node)


async def test_http_is_fetched_and_cut(pair: Pair) -> None:
    async def answer(stream: Stream) -> None:
        async with stream:
            await stream.receive()
            body = b"\xe2\x82\xac" * 20_000
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            await stream.send(head.encode() + body)

    async with (
        pair.b.listen(80) as listener,
        anyio.create_task_group() as tasks,
        pair.client() as client,
    ):
        tasks.start_soon(listener.serve, answer)
        shown = await call(client, "fetch", url="http://agent-b/")
        assert (shown["status"], shown["body"]["is_truncated"]) == (200, True)
        assert set(shown["body"]["text"]) == {"€"}
        assert len(shown["body"]["text"].encode()) <= bounds.MAX_TEXT
        for url in ("http://agent-b:81/", "http://127.0.0.1/", "ftp://agent-b/", "nonsense"):
            await refused(client, "fetch", url=url)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"text", {"text": "text", "bytes": 4}),
        (b"", {"text": "", "bytes": 0}),
        ("€€".encode(), {"text": "€", "bytes": 6, "is_truncated": True}),
        (b"\xff\x00", {"base64": "/wA=", "bytes": 2}),
    ],
)
def test_bounds(data: bytes, shown: dict[str, Any]) -> None:
    assert bounds.text_of(data, 5) == shown


@pytest.mark.parametrize("character", ["\x01", '"', "\\", "\n"])
def test_what_json_adds_counts(character: str) -> None:
    for limit in (1, 5, 100, bounds.MAX_TEXT):
        shown = bounds.text_of(character.encode() * (1 << 16), limit)
        written = json.dumps(shown["text"])[1:-1]
        assert limit - 6 < len(written) <= limit
        assert shown["is_truncated"]


async def test_answers_of_control_characters_are_bounded(pair: Pair) -> None:
    text = "\x01" * 200_000
    async with pair.client() as client:
        async with data_exchange.connect(pair.b, "agent-a") as peer:
            for _ in range(3):
                await peer.send_text(text)
        listed = await call(client, "list_messages")
        assert len(json.dumps(listed)) < 5000
        whole = await call(client, "read_message", id=listed["rows"][0]["id"])
        assert len(json.dumps(whole)) < bounds.MAX_TEXT + 1000


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": partial(zlib.compress, wbits=-15),
    "identity": bytes,
}


class Sent(httpx.AsyncByteStream):
    """A body in pieces, and how many of them were taken."""

    def __init__(self, data: bytes, size: int = 1000) -> None:
        self._pieces = [data[at : at + size] for at in range(0, len(data), size)]
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.taken += 1
            yield piece


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_bodies_are_decompressed_no_further_than_is_shown(encoding: str) -> None:
    bomb = b"bomb" * (8 << 20)
    for data, limit, expected in (
        (b"short" * 1000, 10_000, b"short" * 1000),
        (b"", 10, b""),
        (bomb, 10_000, bomb[:10_001]),
    ):
        stream = Sent(ENCODINGS[encoding](data))
        answer = httpx.Response(200, headers={"Content-Encoding": encoding}, stream=stream)
        tracemalloc.start()
        try:
            assert await body_of(answer, limit) == expected
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
        assert stream.taken <= 11


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip", "x" * 1000])
async def test_bodies_of_other_encodings_are_refused(encoding: str) -> None:
    answer = httpx.Response(
        200, headers={"Content-Encoding": encoding}, stream=Sent(b"no such thing")
    )
    with pytest.raises(ConnectionFailed, match="the body") as caught:
        await body_of(answer, 100)
    assert len(str(caught.value)) < 200


async def test_a_compressed_answer_is_fetched(pair: Pair) -> None:
    async def answer(stream: Stream) -> None:
        async with stream:
            asked = await stream.receive()
            assert b"accept-encoding: gzip, deflate\r\n" in asked.lower()
            body = gzip.compress(b"page " * 1000)
            head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
            await stream.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async with (
        pair.b.listen(80) as listener,
        anyio.create_task_group() as tasks,
        pair.client() as client,
    ):
        tasks.start_soon(listener.serve, answer)
        shown = await call(client, "fetch", url="http://agent-b/")
        assert shown["body"] == {"text": "page " * 1000, "bytes": 5000}
        tasks.cancel_scope.cancel()


async def test_nonsense_ends_no_session(pair: Pair) -> None:
    async with pair.client() as client:
        async with pair.b.dial("agent-a:1010") as stream:
            for text in (b"nonsense\n", b"{}\n", b"\n", b'{"jsonrpc":"2.0","id":1,"method":"x"}\n'):
                await stream.send(text)
            received = b""
            while b'"error"' not in received:
                received += await stream.receive()
        async with pair.b.dial("agent-a:1010") as stream:

            async def flood() -> None:
                while True:
                    await stream.send(b"x" * (1 << 20))

            with pytest.raises(anyio.BrokenResourceError):
                await flood()
        assert (await call(client, "whoami"))["hostname"] == "agent-a"


# Real processes


def environment(net: Network, name: str) -> dict[str, str]:
    return {**os.environ, "PILOT_SOCKET": str(net.nodes[name].socket)}


async def test_pilotctl_mcp_over_stdin_and_stdout(shared_network: Network) -> None:
    command = StdioServerParameters(
        command=PILOTCTL[0],
        args=[*PILOTCTL[1:], "mcp", "--consent", "never"],
        env=environment(shared_network, "agent-a"),
    )
    async with Client(command) as client:
        assert (await call(client, "whoami"))["hostname"] == "agent-a"
        told = await refused(client, "send_file", node="agent-b", path="x")
        assert "permission_denied: no folder is shared" in told


async def test_pilotctl_mcp_over_http(shared_network: Network) -> None:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with await anyio.open_process(
        [*PILOTCTL, "mcp", "--http", f"127.0.0.1:{port}"],
        env=environment(shared_network, "agent-a"),
        stderr=None,
    ) as server:
        try:
            while True:
                try:
                    await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert server.returncode is None
            async with Client(f"http://127.0.0.1:{port}/mcp") as client:
                assert (await call(client, "whoami"))["hostname"] == "agent-a"
        finally:
            server.terminate()
            await server.wait()


async def test_an_unmodified_client_reaches_an_agents_server(shared_network: Network) -> None:
    agent = MCPServer("calculator")

    @agent.tool()
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    socket = shared_network.nodes["agent-b"].socket
    async with pilotstack.Driver(socket) as driver, anyio.create_task_group() as tasks:
        await tasks.start(partial(pilotstack.mcp.serve, agent, driver=driver))
        command = StdioServerParameters(
            command=PILOTCTL[0],
            args=[*PILOTCTL[1:], "mcp", "connect", "pilot://agent-b:1010"],
            env=environment(shared_network, "agent-a"),
        )
        async with Client(command) as client:
            result = await client.call_tool("add", {"a": 1, "b": 2})
            assert result.structured_content == {"result": 3}
        tasks.cancel_scope.cancel()
