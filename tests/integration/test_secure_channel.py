"""The secure channel between programs of real daemons, and what others see of it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.support.pilotctl import Pilotctl
from tests.support.relayed import relayed_pair

from pilotstack.daemon.identity import load
from pilotstack.services import secure
from pilotstack.services.secure import Credentials, SecureStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack import Driver, Stream
    from pilotstack.testing import Network, Node

EXAMPLE = Path(__file__).parents[2] / "examples" / "secure_echo.py"


@contextmanager
def secure_echo(node: Node) -> Iterator[None]:
    """The example, on port 443 of a node."""
    server = subprocess.Popen(
        [sys.executable, EXAMPLE],
        stdout=subprocess.PIPE,
        text=True,
        env={"PILOT_SOCKET": str(node.socket)},
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "secure echo on port 443\n"
        yield
    finally:
        server.kill()
        server.communicate()


def test_an_echo_whose_text_no_observer_reads(network: Network, tmp_path: Path) -> None:
    capture = tmp_path / "udp"
    text = "hello encrypted world"
    with relayed_pair(network, capture=capture) as (a, b, counters), secure_echo(b):
        pilotctl = Pilotctl.of(network, a.name)
        shown = pilotctl.run("--no-json", "connect", "--secure", b.address, stdin=text)
        assert shown.returncode == 0
        assert shown.stdout == text
        assert shown.stderr.splitlines() == [
            f"secure: connected to {b.address}:443",
            "secure: handshake complete (X25519 + AES-256-GCM)",
        ]
        for suite in ("g1", "g2"):
            answer = pilotctl("connect", "--secure", "--suite", suite, b.name, "--message", text)
            assert json.loads(answer)["data"] == {
                "target": b.name,
                "port": 443,
                "sent": text,
                "response": text,
            }
    seen = capture.read_bytes()
    assert counters[0]["to_b"]["forwarded"] > 0
    assert len(seen) > 1000
    for begin in range(len(text) - 6):
        assert text[begin : begin + 6].encode() not in seen


async def echo(channel: SecureStream) -> None:
    async with channel:
        async for chunk in channel:
            await channel.send(chunk)


@pytest.mark.anyio
async def test_nodes_prove_their_keys(shared_network: Network, a: Driver, b: Driver) -> None:
    keys = {
        node.node_id: identity(shared_network, node).public_key for node in nodes(shared_network)
    }

    async def key_of(node: int) -> bytes | None:
        return keys.get(node)

    def credentials(name: str) -> Credentials:
        node = shared_network.nodes[name]
        return Credentials(node.node_id, identity(shared_network, node).seed, key_of)

    async with b.listen() as listener, anyio.create_task_group() as tasks:

        async def serve() -> None:
            await secure.serve(listener, echo, credentials=credentials("agent-b"))

        tasks.start_soon(serve)
        async with a.dial(("agent-b", listener.port)) as stream:
            channel = await secure.wrap_client(stream, credentials=credentials("agent-a"))
            assert channel.peer_node == shared_network.nodes["agent-b"].node_id
            assert channel.remote_address == stream.remote_address
            await channel.send(b"hello")
            assert await channel.receive() == b"hello"
        # The key of agent-b, from the node of agent-a: the tunnel says another node.
        async with a.dial(("agent-b", listener.port)) as stream:
            with pytest.raises((secure.SecureError, anyio.BrokenResourceError)):
                await talk(stream, credentials("agent-b"))
        # The server goes on.
        async with a.dial(("agent-b", listener.port)) as stream:
            assert await talk(stream, credentials("agent-a")) == b"hello"
        tasks.cancel_scope.cancel()


async def talk(stream: Stream, credentials: Credentials) -> bytes:
    channel = await secure.wrap_client(stream, credentials=credentials)
    await channel.send(b"hello")
    return await channel.receive()


def nodes(network: Network) -> list[Node]:
    return [network.nodes[name] for name in ("agent-a", "agent-b")]


def identity(network: Network, node: Node) -> Any:
    return load(network.path / node.name / "identity.json")


@pytest.mark.anyio
async def test_pilotctl_authenticates(shared_network: Network, b: Driver) -> None:
    a, other = nodes(shared_network)
    keys = {a.node_id: identity(shared_network, a).public_key}

    async def key_of(node: int) -> bytes | None:
        return keys.get(node)

    known = Credentials(other.node_id, identity(shared_network, other).seed, key_of)
    pilotctl = Pilotctl.of(shared_network, "agent-a")
    file = shared_network.path / "agent-a" / "identity.json"
    async with b.listen() as listener, anyio.create_task_group() as tasks:

        async def serve() -> None:
            await secure.serve(listener, echo, credentials=known)

        tasks.start_soon(serve)
        arguments = ("connect", "--secure", "agent-b", listener.port, "--message", "hello")
        told = await anyio.to_thread.run_sync(lambda: pilotctl(*arguments, "--identity", file))
        assert json.loads(told)["data"]["response"] == "hello"
        missing = await anyio.to_thread.run_sync(lambda: pilotctl(*arguments, "--identity", "/no"))
        assert json.loads(missing.splitlines()[0])["code"] == "invalid_argument"
        tasks.cancel_scope.cancel()


def test_the_flags_of_the_channel_need_it(shared_network: Network) -> None:
    shown = Pilotctl.of(shared_network, "agent-a").run("connect", "agent-b", "--suite", "g1")
    assert shown.returncode == 2
