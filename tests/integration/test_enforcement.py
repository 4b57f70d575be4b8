"""Who is removed loses its streams at once, whether or not its own daemon cooperates."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from tests.support.programs import BIN, environment

from pilotstack import Driver, StreamBroken
from pilotstack.errors import PilotError
from pilotstack.ipc import network_requests as n
from pilotstack.testing import Network

if TYPE_CHECKING:
    from pilotstack import Stream

pytestmark = pytest.mark.anyio
PORT = 1234


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def broken(stream: Stream) -> None:
    """Returns when the stream has ended."""
    try:
        while True:
            await stream.receive()
    except (StreamBroken, anyio.EndOfStream):
        await stream.aclose()


async def test_a_kicked_member_is_shut_out_by_the_others(network: Network) -> None:
    owner, member, kicked = (network.start(f"agent-{name}", public=False) for name in "abc")
    async with Driver(owner.socket) as a, Driver(member.socket) as b, Driver(kicked.socket) as c:
        made = await a.ask(n.CreateNetwork("ops", "open"))
        for driver in (b, c):
            await driver.ask(n.JoinNetwork(made.network_id))
        number = made.network_id
        address = f"{number}:{number:04X}.0000.{member.node_id:04X}:{PORT}"
        async with await b.listen(PORT) as listener:
            near = await c.dial(address, timeout=20)
            far = await listener.accept()
            # It cannot even hear of it.
            os.kill(kicked.pid, signal.SIGSTOP)
            try:
                await a.ask(n.KickMember(number, kicked.node_id))
                # The peer cannot have reset it, and nobody waits for an answer of it.
                with anyio.fail_after(10):
                    await broken(far)
            finally:
                os.kill(kicked.pid, signal.SIGCONT)
            with anyio.fail_after(30):
                await broken(near)
            with pytest.raises(PilotError):
                await c.dial(address, timeout=3)
        assert not (await c.info()).networks


async def test_the_end_of_a_network_ends_its_streams(network: Network) -> None:
    owner, member = (network.start(f"agent-{name}", public=False) for name in "ab")
    async with Driver(owner.socket) as a, Driver(member.socket) as b:
        made = await a.ask(n.CreateNetwork("ops", "open"))
        await b.ask(n.JoinNetwork(made.network_id))
        number = made.network_id
        address = f"{number}:{number:04X}.0000.{owner.node_id:04X}:{PORT}"
        async with await a.listen(PORT) as listener:
            near = await b.dial(address, timeout=20)
            far = await listener.accept()
            await a.ask(n.DeleteNetwork(number))
            with anyio.fail_after(10):
                await broken(near)
                await broken(far)
            while (await b.info()).networks:
                await anyio.lowlevel.checkpoint()


async def test_an_ephemeral_node_leaves_nothing(network: Network) -> None:
    lasting = network.start("agent-a")
    job = network.start("job", "--ephemeral")
    async with Driver(lasting.socket) as a, Driver(job.socket) as b:
        made = await a.ask(n.CreateNetwork("ops", "open"))
        await b.ask(n.JoinNetwork(made.network_id))
        async with await a.dial("job:7", timeout=20) as stream:
            await stream.send(b"hello")
    assert job.process.stop() == 0
    store = network.path / "registry.json"
    assert network.rendezvous.stop() == 0
    nodes = json.loads(store.read_text())["nodes"]
    assert [row["hostname"] for row in nodes.values()] == ["agent-a"]


async def test_a_banned_node_loses_its_streams_and_cannot_come_back() -> None:
    with Network("--admin-token", "root") as network:
        one, other = network.start("agent-a"), network.start("agent-b")
        token = {"PILOT_ADMIN_TOKEN": "root"}
        command = [str(BIN / "pilotctl"), "--json", "ban", "agent-b", "--registry"]
        async with Driver(one.socket) as a, Driver(other.socket) as b:
            async with await a.listen(PORT) as listener:
                near = await b.dial(f"agent-a:{PORT}", timeout=20)
                far = await listener.accept()
                os.kill(other.pid, signal.SIGSTOP)
                try:
                    await anyio.run_process([*command, network.registry], env=environment(**token))
                    with anyio.fail_after(10):
                        await broken(far)
                finally:
                    os.kill(other.pid, signal.SIGCONT)
                with anyio.fail_after(30):
                    await broken(near)
            with pytest.raises(PilotError):
                await a.dial(f"{other.node_id}:7", timeout=3)
            with pytest.raises(PilotError):
                await b.dial(f"{one.node_id}:7", timeout=3)
