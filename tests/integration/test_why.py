"""``pilotctl why``: each cause brought about between real daemons."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.support.namespaces import Routed, inside
from tests.support.programs import BIN, environment
from tests.support.relayed import relayed_pair

from pilotstack import Driver
from pilotstack.testing import Process

if TYPE_CHECKING:
    from pilotstack.client import Stream
    from pilotstack.testing import Network, Node

pytestmark = pytest.mark.anyio
PORT = 1234


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def why(
    where: Node | Path, target: object, *flags: str, prefix: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The verdict of a node, which is given by itself or its socket."""
    path = where if isinstance(where, Path) else where.socket
    command = [*prefix, BIN / "pilotctl", "--json", "--socket", path, "why", target, *flags]
    result = await anyio.run_process(
        list(map(str, command)), check=False, env=environment(PILOT_HOME=str(path.parent))
    )
    answer: dict[str, Any] = json.loads(result.stdout)
    found: dict[str, Any] = answer["data"]
    assert (result.returncode == 0) is (not found["is_unreachable"]), answer
    assert found["text"].endswith(".")
    return found


async def code(node: Node, target: object, *flags: str) -> str:
    return str((await why(node, target, *flags))["code"])


def pilotctl(node: Node, *arguments: object) -> None:
    command = [BIN / "pilotctl", "--socket", node.socket, *arguments]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


async def test_peers_that_are_well_or_were_never_there(shared_network: Network) -> None:
    a, b = shared_network.nodes["agent-a"], shared_network.nodes["agent-b"]
    found = await why(a, "agent-b")
    assert (found["code"], found["address"]) == ("well", b.address)
    assert found["evidence"]["path"]["path"] == "lan"
    assert await code(a, "agent-a") == "itself"
    assert await code(a, "nobody") == "unknown"
    assert await code(a, 999) == "unknown"
    assert await code(a, "agent-b", "--port", str(PORT)) == "refused"


async def test_private_peers_and_those_that_trust_no_more(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b", public=False)
    quick = ("--timeout", "2s")
    assert await code(a, "agent-b", *quick) == "private"
    pilotctl(b, "handshake", "agent-a", "please")
    async with Driver(a.socket) as driver:
        while not await driver.pending():
            await anyio.lowlevel.checkpoint()
    assert await code(a, "agent-b", *quick) == "untrusted"
    pilotctl(a, "approve", "agent-b")
    async with Driver(a.socket) as driver, await driver.dial("agent-b:7", timeout=20):
        pass
    assert await code(a, "agent-b", *quick) == "well"


async def test_a_node_that_has_stopped(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    assert b.process.stop() == 0
    assert await code(a, b.node_id) == "unknown"


async def test_a_node_that_was_killed_has_a_way_that_does_not_answer(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    b.process.kill()
    found = await why(a, "agent-b", "--timeout", "2s")
    assert found["code"] == "unreachable"
    assert b.endpoint in found["text"]


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nft") is None,
    reason="network namespaces and a firewall need root, iproute2 and nftables",
)
async def test_a_path_through_the_beacon(tmp_path: Path) -> None:
    with Routed("10.79.1.2/24", "10.79.2.2/24") as routed, ExitStack() as stack:
        rules = "table inet t {\nchain c {\ntype filter hook forward priority filter\ndrop\n}\n}\n"
        command = [*inside(routed.router_name), "nft", "-f", "-"]
        await anyio.run_process(command, input=rules.encode())
        host = "10.79.1.254"
        flags = ["--registry-addr", f"{host}:0", "--beacon-addr", f"{host}:0"]
        rendezvous = Process(
            "rendezvous", flags, tmp_path / "r.log", prefix=inside(routed.router_name)
        )
        stack.callback(rendezvous.stop)
        for name, place in (("a", routed.left_name), ("b", routed.right_name)):
            known = ["--registry", rendezvous.ready["registry"], "--hostname", f"agent-{name}"]
            known += ["--beacon", rendezvous.ready["beacon"], "--public"]
            known += ["--socket", str(tmp_path / f"{name}.sock")]
            daemon = Process("daemon", known, tmp_path / f"{name}.log", prefix=inside(place))
            stack.callback(daemon.stop)
        prefix = tuple(inside(routed.left_name))
        found = await why(tmp_path / "a.sock", "agent-b", prefix=prefix)
        assert found["code"] == "relayed", found
        assert rendezvous.ready["beacon"] in found["text"]


async def _pump(stream: Stream, pause: float = 0.0) -> None:
    """Sends until cancelled; a little at a time with a pause."""
    piece = bytes(1000 if pause else 1 << 16)
    while True:
        await stream.send(piece)
        if pause:
            # An application that has little to send.
            with anyio.move_on_after(pause):
                await anyio.sleep_forever()


async def _drain(stream: Stream) -> None:
    while True:
        await stream.receive()


class Pair:
    """A stream between two nodes."""

    def __init__(self, a: Node, b: Node) -> None:
        self.a, self.b = a, b

    async def __aenter__(self) -> Pair:
        self._stack = AsyncExitStack()
        client = await self._stack.enter_async_context(Driver(self.a.socket))
        server = await self._stack.enter_async_context(Driver(self.b.socket))
        listener = await self._stack.enter_async_context(await server.listen(PORT))
        self.near = await client.dial(f"{self.b.node_id}:{PORT}", timeout=20)
        self.far = await listener.accept()
        for driver, stream in ((client, self.near), (server, self.far)):
            self._stack.push_async_callback(stream.aclose)
            self._stack.push_async_callback(driver.abort, stream)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


async def _until_stuck(node: Node) -> None:
    """Returns when nothing more fits into the peer's window."""
    async with Driver(node.socket) as driver:
        while True:
            rows = (await driver.info()).conn_list
            if any(row.remote_port == PORT and row.peer_recv_win < 1000 for row in rows):
                return


async def test_a_program_that_does_not_read(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    async with Pair(a, b) as pair, anyio.create_task_group() as tasks:
        tasks.start_soon(_pump, pair.near)
        await _until_stuck(a)
        found = await why(a, "agent-b")
        assert found["code"] == "receive_window"
        assert f"port {PORT}" in found["text"]
        # The other end sees that its own program is the cause.
        assert await code(b, "agent-a") == "not_reading"
        tasks.cancel_scope.cancel()


async def test_a_program_that_sends_little(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    async with Pair(a, b) as pair, anyio.create_task_group() as tasks:
        tasks.start_soon(_pump, pair.near, 0.01)
        tasks.start_soon(_drain, pair.far)
        found = await why(a, "agent-b")
        assert found["code"] == "application_limited", found
        (stream,) = found["evidence"]["streams"]
        assert stream["sent_per_second"] > 0
        tasks.cancel_scope.cancel()


async def test_a_path_that_loses_packets(network: Network) -> None:
    with relayed_pair(network, drop=0.05) as (a, b, _):
        async with Pair(a, b) as pair, anyio.create_task_group() as tasks:
            tasks.start_soon(_pump, pair.near)
            tasks.start_soon(_drain, pair.far)
            found = await why(a, "agent-b", "--observe", "2s")
            assert found["code"] in ("lossy", "cpu"), found
            assert found["evidence"]["loss"] > 0.01
            tasks.cancel_scope.cancel()


async def test_without_a_daemon_it_says_so() -> None:
    command = [str(BIN / "pilotctl"), "--json", "--socket", "/nowhere/s", "why", "agent-b"]
    result = await anyio.run_process(command, check=False, env=environment())
    assert (json.loads(result.stdout)["code"], result.returncode) == ("not_running", 8)
