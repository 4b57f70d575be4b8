"""Networks of real daemons: private members reach each other, others do not."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.support.pilotctl import Pilotctl

from pilotstack import Address, Driver, SocketAddress, Stream, sync
from pilotstack.daemon import rotation
from pilotstack.daemon.identity import load_or_create
from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    StreamBroken,
    TimedOut,
)
from pilotstack.registry.client import RegistryClient, parse_addresses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pilotstack.testing import Network

pytestmark = pytest.mark.anyio
NAMES = ("agent-a", "agent-b", "agent-c")


@pytest.fixture
def anyio_backend() -> str:
    """One is enough for what daemons do; the drivers' other tests run on all."""
    return "trio"


@pytest.fixture
async def drivers(network: Network) -> AsyncIterator[list[Driver]]:
    """Drivers of three agents whom nobody may reach."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Driver(network.start(name, public=False).socket))
            for name in NAMES
        ]


async def echo(driver: Driver, target: str) -> bytes:
    async with await driver.dial(target) as stream:
        await stream.send(b"hello")
        return await stream.receive()


async def hears_nothing(driver: Driver, target: str) -> None:
    """A dial is not answered; or not even sent, where no tunnel is left."""
    with pytest.raises((ConnectionFailed, TimedOut)):
        await driver.dial(target, timeout=3)


async def exchange_for_ever(stream: Stream) -> None:
    while True:
        await stream.send(b"hello")
        await stream.receive()


async def test_members_reach_each_other_and_an_outsider_does_not(drivers: list[Driver]) -> None:
    a, b, c = drivers
    lab = await a.create_network("lab", join_rule="token", token="open sesame")
    # The reason of the registry is passed on.
    with pytest.raises(ConnectionFailed, match=r"cannot be reached: .*private"):
        await a.dial("agent-b:7")
    with pytest.raises(PermissionDenied):
        await b.join_network(lab, token="close sesame")
    address = await b.join_network(lab, token="open sesame")
    assert str(address) == f"{lab}:0001.0000.0002"

    assert await echo(a, f"{address}:7") == b"hello"
    assert await echo(b, f"{lab}:0001.0000.0001:7") == b"hello"
    assert await echo(a, "agent-b:7") == b"hello"
    for target in (f"{address}:7", "agent-b:7"):
        with pytest.raises(ConnectionFailed):
            await c.dial(target)
    with pytest.raises(PermissionDenied):
        await c.members(lab)
    assert [(m.node_id, m.role, m.is_online) for m in await b.members(lab)] == [
        (1, "owner", True),
        (2, "member", True),
    ]


async def test_a_refused_peer_is_admitted_after_joining(drivers: list[Driver]) -> None:
    a, b, _ = drivers
    await a.handshake("agent-b", "before")
    await b.handshake("agent-a", "before")
    assert await a.wait_for_trust("agent-b")
    assert await echo(a, "agent-b:7") == b"hello"
    lab = await a.create_network("lab", join_rule="token", token="secret")
    address = await b.join_network(lab, token="secret")
    assert await echo(a, f"{address}:7") == b"hello"
    assert await echo(b, f"{lab}:0001.0000.0001:7") == b"hello"


async def test_leaving_ends_admission(drivers: list[Driver]) -> None:
    a, b, _ = drivers
    lab = await a.create_network("lab")
    await b.join_network(lab)
    async with await b.dial(f"{lab}:0001.0000.0001:7") as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await b.leave_network(lab)
        # What is open does not outlive the membership, although the tunnel is there.
        with pytest.raises(StreamBroken) as broken:
            await exchange_for_ever(stream)
        # By our daemon or by the other one, which the registry tells at once.
        assert broken.value.reason in {"aborted", "reset"}
    async with anyio.create_task_group() as tasks:
        for driver, target in ((b, f"{lab}:0001.0000.0001:7"), (b, "agent-a:7"), (a, "agent-b:7")):
            tasks.start_soon(hears_nothing, driver, target)


async def test_both_ends_of_a_stream_have_addresses_of_the_network(drivers: list[Driver]) -> None:
    a, b, _ = drivers
    lab = await a.create_network("lab")
    await b.join_network(lab)
    async with (
        await b.listen(80) as listener,
        await a.dial((Address(lab, 2), 80)) as stream,
        await listener.accept() as accepted,
    ):
        assert accepted.remote_address.address == Address(lab, 1)
        assert stream.local_address.address == Address(lab, 1)
        assert stream.remote_address == SocketAddress(Address(lab, 2), 80)


async def test_who_is_invited_joins_and_who_is_kicked_is_gone(drivers: list[Driver]) -> None:
    a, b, c = drivers
    club = await a.create_network("club", join_rule="invite")
    with pytest.raises(PermissionDenied):
        await b.join_network(club)
    with pytest.raises(NotFound):
        await b.accept_invite(club)
    await a.invite(club, 2)
    assert [(i.network_id, i.inviter_id) for i in await b.invites()] == [(club, 1)]
    await b.reject_invite(club)
    assert await b.invites() == ()
    await a.invite(club, 2)
    await b.accept_invite(club)
    # Members may invite, not only owners.
    await b.invite(club, 3)
    await c.accept_invite(club)
    assert await echo(c, f"{club}:0001.0000.0001:7") == b"hello"
    with pytest.raises(AlreadyExists):
        await a.invite(club, 3)
    with pytest.raises(PermissionDenied):
        await c.kick(club, 2)
    await a.kick(club, 3)
    assert [m.node_id for m in await b.members(club)] == [1, 2]


async def test_a_broadcast_reaches_every_other_member(drivers: list[Driver]) -> None:
    a, b, c = drivers
    lab = await a.create_network("lab")
    assert await a.broadcast(lab, b"anybody?") == 0
    for driver in (b, c):
        await driver.join_network(lab)
    async with AsyncExitStack() as stack:
        ours, *others = [
            await stack.enter_async_context(await driver.datagram(5000)) for driver in drivers
        ]
        assert await a.broadcast(lab, b"hello", port=5000) == 2
        for datagrams in others:
            datagram = await datagrams.receive()
            assert (datagram.data, datagram.source.address) == (b"hello", Address(lab, 1))
        # What arrives at the sender afterwards shows that its own broadcast did not.
        await others[0].send_to(b"done", (Address(lab, 1), 5000))
        assert (await ours.receive()).data == b"done"
        with pytest.raises(PermissionDenied):
            await a.broadcast(lab + 1, b"hello")
        with pytest.raises(PermissionDenied):
            await a.broadcast(0, b"hello")
        with pytest.raises(InvalidArgument):
            await a.broadcast(lab, b"")
        with pytest.raises(InvalidArgument):
            await a.broadcast(lab, b"hello", port=0)


async def test_memberships_survive_a_restart(network: Network) -> None:
    for name in NAMES[:2]:
        network.start(name, public=False)
    with sync.Driver(network.nodes["agent-a"].socket) as a:
        lab = a.create_network("lab", join_rule="token", token="secret")
        with sync.Driver(network.nodes["agent-b"].socket) as b:
            b.join_network(lab, token="secret")
    for name in NAMES[:2]:
        network.nodes[name].process.stop()
        network.start(name, public=False)
    async with (
        Driver(network.nodes["agent-a"].socket) as a,
        Driver(network.nodes["agent-b"].socket) as b,
    ):
        assert await echo(b, f"{lab}:0001.0000.0001:7") == b"hello"
        await a.rename_network(lab, "laboratory")
        await a.delete_network(lab)
        assert [info.name for info in await b.networks()] == ["backbone"]


async def test_a_node_can_go_and_come_back(drivers: list[Driver], network: Network) -> None:
    a, b, _ = drivers
    await a.deregister()
    with pytest.raises(NotFound):
        await b.resolve("agent-a")
    assert await a.register() == Address(0, 1)
    assert (await b.resolve("agent-a")).node_id == 1
    assert network.nodes["agent-a"].process.is_running


async def test_a_new_key_keeps_id_and_memberships(drivers: list[Driver], network: Network) -> None:
    a, b, c = drivers
    lab = await a.create_network("lab")
    for driver in (b, c):
        await driver.join_network(lab)
    before = (await a.info()).public_key
    async with await b.dial(f"{lab}:0001.0000.0001:7") as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        key = await a.rotate_key()
        assert key not in {before, ""}
        assert (await a.info()).public_key == key
        # The tunnel under the old key ends with all that is in it as soon as the peer's registry
        # names the new one: who holds the old key may be somebody else by now.
        with pytest.raises(StreamBroken) as broken:
            await stream.receive()
        assert broken.value.reason == "peer_restarted"
    # One had a tunnel under the old key, the other has none.
    for driver in (b, c):
        assert await echo(driver, f"{lab}:0001.0000.0001:7") == b"hello"
    await a.set_tags(["rotated"])
    network.nodes["agent-a"].process.stop()
    node = network.start("agent-a", public=False)
    assert node.node_id == 1
    async with Driver(node.socket) as again:
        assert (await again.info()).public_key == key
        assert await echo(b, f"{lab}:0001.0000.0001:7") == b"hello"
        assert await echo(again, f"{lab}:0001.0000.0003:7") == b"hello"


async def test_a_daemon_that_died_in_a_rotation_comes_back_with_its_id(network: Network) -> None:
    node = network.start("agent-a")
    path = network.path / "agent-a" / "identity.json"
    node.process.kill()
    # The file of the next key is what a daemon leaves that dies before the registry answers.
    pending = rotation.KeyFiles(path).prepare(node.node_id)
    again = network.start("agent-a")
    assert again.node_id == node.node_id
    assert rotation.KeyFiles(path).pending() is None
    with sync.Driver(again.socket) as driver:
        assert driver.rotate_key()
    assert pending.seed not in path.read_bytes()


async def test_networks_in_blocking_code(network: Network) -> None:
    nodes = [network.start(name, public=False) for name in NAMES[:2]]
    with sync.Driver(nodes[0].socket) as a, sync.Driver(nodes[1].socket) as b:
        lab = a.create_network("lab", join_rule="invite")
        a.invite(lab, 2)
        assert b.invites()[0].network_id == lab
        b.accept_invite(lab)
        with b.datagram(1000) as datagrams:
            assert a.broadcast(lab, b"hello") == 1
            assert datagrams.receive(30).data == b"hello"
        assert [m.hostname for m in a.members(lab)] == ["agent-a", "agent-b"]
        a.rename_network(lab, "laboratory")
        assert {n.id: n.name for n in b.networks()}[lab] == "laboratory"
        b.leave_network(lab)
        a.invite(lab, 2)
        b.reject_invite(lab)
        with pytest.raises(PermissionDenied, match="is not a member"):
            a.kick(lab, 2)
        b.set_tags(["web", "ai"])
        a.enroll_recovery("correct horse battery staple")
        assert a.rotate_key() == a.info().public_key
        a.delete_network(lab)
        b.deregister()
        assert b.register() == Address(0, 2)


async def test_who_was_looked_up_just_before_joining_is_a_member_at_once(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b", public=False)
    async with Driver(a.socket) as owner, Driver(b.socket) as member:
        # Now the member's daemon remembers the owner without a network.
        assert await echo(member, "agent-a:7") == b"hello"
        lab = await owner.create_network("lab", join_rule="open")
        await member.join_network(lab)
        async with await member.datagram(1000) as port:
            await owner.broadcast(lab, b"news", port=1000)
            assert (await port.receive()).data == b"news"


async def test_a_policy_holds_for_dials_arrivals_and_datagrams(
    network: Network, drivers: list[Driver]
) -> None:
    a, b, _ = drivers
    lab = await a.create_network("lab")
    await b.join_network(lab)
    there = Address(lab, 2)
    async with (
        await b.listen(80) as listener,
        await b.datagram(81) as datagrams,
        await a.datagram() as source,
        await a.dial((there, 80)) as stream,
        await listener.accept(),
    ):
        pilotctl = Pilotctl.of(network, "agent-a")
        pilotctl("network", "policy", lab, "--allowed-ports", "7,81")
        # What is open and not allowed any more ends.
        with pytest.raises(StreamBroken):
            await exchange_for_ever(stream)
        with pytest.raises(PermissionDenied, match="does not allow"):
            await a.dial((there, 80))
        # The hostname leads to the backbone, where only the network admits agent-a.
        assert await echo(a, "agent-b:7") == b"hello"
        assert await echo(a, f"{there}:7") == b"hello"
        await source.send_to(b"hello", (there, 81))
        assert (await datagrams.receive()).data == b"hello"
        with pytest.raises(PermissionDenied):
            await a.broadcast(lab, b"hello", port=1000)
        pilotctl("network", "policy", lab, "--allowed-ports", "all")
        # Each daemon asks the registry again after half a second at most.
        with anyio.fail_after(20):
            while True:
                with suppress(PermissionDenied):
                    async with await a.dial((there, 80)), await listener.accept():
                        break


async def test_a_membership_made_at_the_registry_counts_at_once(
    network: Network, drivers: list[Driver]
) -> None:
    a, b, _ = drivers
    lab = await a.create_network("lab")
    identity = load_or_create(network.path / "agent-b" / "identity.json")
    registry = RegistryClient(parse_addresses(network.registry), identity)
    registry.node_id = 2
    await registry.join_network(lab)
    await registry.aclose()
    # Its own daemon has not heard of it, and is asked by a packet.
    assert await echo(a, f"{Address(lab, 2)}:7") == b"hello"
    assert await b.broadcast(lab, b"hello", port=1000) == 1
