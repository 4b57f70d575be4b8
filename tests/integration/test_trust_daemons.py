"""Trust between real daemons: private nodes, both ways of a handshake, and what it opens."""

from __future__ import annotations

import json
import stat
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pilotstack import Driver, PilotError, Stream, StreamBroken
from pilotstack.daemon.identity import Identity, load_or_create
from pilotstack.errors import ConnectionFailed, InvalidArgument, NotFound, TimedOut
from pilotstack.ipc import codes
from pilotstack.ipc.requests import ApproveTrust, AwaitTrust, RevokeTrust
from pilotstack.registry.client import RegistryClient, parse_addresses
from pilotstack.trust import messages
from pilotstack.trust.messages import Kind, TrustMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pilotstack.testing import Network, Node

pytestmark = pytest.mark.anyio
#: Seconds in which a dial that nobody answers is given up here.
SILENCE = 2.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def pair(network: Network, *flags: str) -> AsyncIterator[tuple[Driver, Driver, Node, Node]]:
    a = network.start("agent-a", *(flags or ("--private",)))
    b = network.start("agent-b", "--private")
    async with Driver(a.socket) as first, Driver(b.socket) as second:
        yield first, second, a, b


def identity_of(network: Network, node: Node) -> Identity:
    return load_or_create(network.path / node.name / "identity.json")


def registry_of(network: Network, node: Node) -> RegistryClient:
    client = RegistryClient(parse_addresses(network.registry), identity_of(network, node))
    client.node_id = node.node_id
    return client


async def until(driver: Driver, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The daemon's state as soon as it meets a condition."""
    with anyio.fail_after(20):
        while not condition(info := await driver.call(codes.INFO)):
            await anyio.lowlevel.checkpoint()
    return info


async def until_dropped(driver: Driver, reason: str, count: int) -> None:
    await until(driver, lambda info: info["dropped"].get(reason, 0) >= count)


async def until_pending(driver: Driver, node: int) -> str:
    with anyio.fail_after(20):
        while True:
            for row in await driver.pending():
                if row.node_id == node:
                    return row.justification


async def hears_nothing(driver: Driver, node: Node) -> None:
    """A dial is not answered; or not even sent, where late packets have left no tunnel."""
    with pytest.raises((ConnectionFailed, TimedOut)):
        await driver.dial(f"{node.node_id}:7", timeout=SILENCE)


async def establish(a: Driver, b: Driver, first: Node, second: Node) -> None:
    await a.handshake(second.node_id, "hello")
    await until_pending(b, first.node_id)
    await b.approve(first.node_id)
    assert await a.wait_for_trust(second.node_id)
    assert await b.wait_for_trust(first.node_id)


async def echo(driver: Driver, node: Node) -> None:
    async with await driver.dial(f"{node.node_id}:7") as stream:
        await stream.send(b"echo")
        assert await stream.receive() == b"echo"


async def read_to_end(stream: Stream) -> None:
    while True:
        await stream.receive()


async def test_private_nodes_connect_after_both_consents_until_a_revocation(
    network: Network,
) -> None:
    async with pair(network) as (a, b, first, second):
        for driver, other in ((a, second), (b, first)):
            with pytest.raises(ConnectionFailed, match="cannot be reached"):
                await driver.dial(f"{other.node_id}:7")
        await a.handshake("agent-b", "want to\x1b[2J collaborate")
        assert await until_pending(b, first.node_id) == "want to[2J collaborate"
        # One consent opens nothing.
        with pytest.raises(ConnectionFailed):
            await a.dial(f"{second.node_id}:7")
        await b.approve(first.node_id)
        assert await a.wait_for_trust(second.node_id)
        assert [row.node_id for row in await a.trusted()] == [second.node_id]
        assert [(row.mutual, row.network) for row in await a.trusted()] == [(True, 0)]
        assert [row.mutual for row in await b.trusted()] == [False]
        assert await b.pending() == ()
        await echo(a, second)
        await echo(b, first)
        async with await a.dial(f"{second.node_id}:7") as stream:
            await b.untrust("agent-a")
            with pytest.raises(StreamBroken):
                await read_to_end(stream)
        await until_untrusted(a, second.node_id)
        for driver, other in ((a, second), (b, first)):
            assert await driver.trusted() == ()
            await hears_nothing(driver, other)
        with pytest.raises(NotFound, match=f"node {first.node_id} was not trusted"):
            await b.untrust(first.node_id)
        # And again: nothing of before stands in the way.
        await establish(a, b, first, second)
        await echo(a, second)


async def until_untrusted(driver: Driver, node: int) -> None:
    with anyio.fail_after(20):
        while node in {row.node_id for row in await driver.trusted()}:
            await anyio.lowlevel.checkpoint()


async def test_requests_of_both_need_no_approval(network: Network) -> None:
    async with pair(network) as (a, b, first, second), anyio.create_task_group() as tasks:
        tasks.start_soon(a.handshake, second.node_id)
        tasks.start_soon(b.handshake, first.node_id)
        with anyio.fail_after(20):
            assert await a.wait_for_trust(second.node_id)
            assert await b.wait_for_trust(first.node_id)
        await echo(a, second)


async def test_a_public_node_gets_a_direct_request(network: Network) -> None:
    a = network.start("agent-a", "--private")
    b = network.start("agent-b")
    async with Driver(a.socket) as asking, Driver(b.socket) as asked:
        await asking.handshake(b.node_id, "straight")
        assert await until_pending(asked, a.node_id) == "straight"
        registry = registry_of(network, b)
        # Nothing waits in the inbox of the registry.
        assert (await registry.poll_handshakes()).requests == ()
        await registry.aclose()
        await asked.approve(a.node_id)
        assert await asking.wait_for_trust(b.node_id)


async def test_what_the_registry_relays_is_pushed(network: Network) -> None:
    async with pair(network) as (a, b, first, second):
        await establish(a, b, first, second)
        for driver in (a, b):
            info = await driver.call(codes.INFO)
            assert info["handshakes_relayed"]["pushed"] > 0
            assert info["handshakes_relayed"]["polled"] == 0


async def test_a_rejection_reaches_the_requester(network: Network) -> None:
    async with pair(network) as (a, b, first, second):
        await a.handshake(second.node_id)
        await until_pending(b, first.node_id)
        await b.reject(first.node_id, "no")
        path = network.path / "agent-a" / "trust.json"
        with anyio.fail_after(20):
            while json.loads(path.read_text()).get("outgoing"):
                await anyio.lowlevel.checkpoint()
        assert await a.wait_for_trust(second.node_id, 0) is False
        for call in (b.approve(first.node_id), b.reject(first.node_id)):
            with pytest.raises(NotFound, match=f"no request of node {first.node_id}"):
                await call


async def test_trust_survives_restarts_and_the_file_is_private(network: Network) -> None:
    async with pair(network) as (a, b, first, second):
        await establish(a, b, first, second)
    for name in ("agent-a", "agent-b"):
        path = network.path / name / "trust.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first.process.stop()
    second.process.kill()
    async with pair(network) as (a, b, first, second):
        assert [row.node_id for row in await a.trusted()] == [second.node_id]
        assert [row.node_id for row in await b.trusted()] == [first.node_id]
        await echo(a, second)
        await echo(b, first)


async def test_a_file_that_is_not_understood_keeps_the_daemon_from_starting(
    network: Network,
) -> None:
    path = network.path / "agent-a" / "trust.json"
    path.parent.mkdir()
    path.write_text('{"trusted": [')
    with pytest.raises(ConnectionFailed, match="holds no trust records"):
        network.start("agent-a")
    assert path.read_text() == '{"trusted": ['


async def test_two_daemons_do_not_share_a_file(network: Network) -> None:
    network.start("agent-a")
    identity = network.path / "agent-a" / "identity.json"
    with pytest.raises(ConnectionFailed, match="another daemon keeps its trust"):
        network.start("agent-b", "--identity", str(identity))
    other = identity.with_name("other.json")
    assert network.start("agent-b", "--identity", str(other)).process.is_running


async def test_an_approval_while_the_asker_is_away_is_there_when_it_returns(
    network: Network,
) -> None:
    async with pair(network, "--private", "--keepalive", "1") as (b, a, second, first):
        await a.handshake(second.node_id)
        await until_pending(b, first.node_id)
        first.process.stop()
        await b.approve(first.node_id)
        first = network.start(first.name, "--private")
        async with Driver(first.socket) as again:
            assert await again.wait_for_trust(second.node_id)
            await echo(again, second)


async def test_failed_reports_to_the_registry_are_retried(network: Network) -> None:
    async with pair(network, "--private", "--keepalive", "1") as (a, b, first, second):
        await establish(a, b, first, second)
        network.rendezvous.kill()
        await a.untrust(second.node_id)
        network.start_rendezvous()
        registry = registry_of(network, second)
        with anyio.fail_after(30):
            while await registry.check_trust(first.node_id):
                await anyio.lowlevel.checkpoint()
        await registry.aclose()


# Strangers


async def test_an_untrusted_node_hears_nothing_and_is_counted(network: Network) -> None:
    async with pair(network) as (a, b, first, second):
        await establish(a, b, first, second)
        stranger = network.start("stranger")
        await until_tunnel(network, a, second)
        async with Driver(stranger.socket) as outside:
            await lead_to(network, outside, stranger, second)
            datagrams = await outside.datagram()
            await datagrams.send_to(b"hello", f"{second.node_id}:9")
            await hears_nothing(outside, second)
            info = await until(b, lambda info: info["dropped"]["stranger_datagrams"])
            assert info["dropped"]["stranger_syns"] > 0
            assert info["connections"] == 0
        await echo(a, second)


async def until_tunnel(network: Network, driver: Driver, node: Node) -> None:
    await echo(driver, node)


async def lead_to(network: Network, outside: Driver, stranger: Node, target: Node) -> None:
    """Shows a stranger where a private node is: it is public for a moment."""
    async with Driver(target.socket) as driver:
        await driver.set_visibility(public=True)
        await echo(outside, target)
        await driver.set_visibility(public=False)


# Hostile messages on port 444


class Liar:
    """A public daemon's driver that writes to port 444 by itself."""

    def __init__(self, network: Network, driver: Driver, own: Node, victim: Node) -> None:
        self._driver = driver
        self._identity = identity_of(network, own)
        self._own = own.node_id
        self._victim = victim.node_id

    def message(self, kind: Kind, timestamp: float | None = None) -> TrustMessage:
        key = self._identity.public_key
        signature = self._identity.sign(messages.challenge(self._own, self._victim))
        at = int(time.time() if timestamp is None else timestamp)
        return TrustMessage(kind, self._own, key, signature, at)

    async def send(self, data: bytes) -> None:
        async with await self._driver.dial(f"{self._victim}:444") as stream:
            await stream.send(data)
            with anyio.fail_after(15):
                # What is dropped resets the stream, so that its sender can tell.
                with suppress(StreamBroken):
                    await stream.send_eof()
                    async for _ in stream:
                        raise AssertionError("messages are never answered on their stream")


async def test_hostile_messages_change_nothing_and_are_counted(network: Network) -> None:
    victim, own, other = (network.start(name) for name in ("victim", "liar", "other"))
    async with Driver(victim.socket) as driver, Driver(own.socket) as outside:
        liar = Liar(network, outside, own, victim)
        now = time.time()
        request = liar.message(Kind.REQUEST)
        other_key = identity_of(network, other).public_key
        hostile = {
            "malformed": [b"garbage", b"[]", b'{"type":"handshake_hug"}', b"{" * 70_000],
            "source": [messages.encode(replace(request, node_id=other.node_id))],
            "unsigned": [messages.encode(replace(request, signature=b""))],
            "signature": [messages.encode(replace(request, signature=bytes(64)))],
            "key": [messages.encode(replace(request, public_key=other_key))],
            "stale": [messages.encode(liar.message(Kind.REQUEST, now - 400))],
            "future": [messages.encode(liar.message(Kind.REVOKE, now + 60))],
            "unsolicited": [messages.encode(liar.message(Kind.ACCEPT, now))],
        }
        for reason, sent in hostile.items():
            for item in sent:
                await liar.send(item)
            await until_dropped(driver, f"handshake_{reason}", len(sent))
        assert (await driver.trusted(), await driver.pending()) == ((), ())
        genuine = messages.encode(liar.message(Kind.REQUEST, now + 1))
        await liar.send(genuine)
        await until_pending(driver, own.node_id)
        await driver.reject(own.node_id)
        await liar.send(genuine)
        await until(driver, lambda info: info["dropped"].get("handshake_replayed"))
        assert await driver.pending() == ()


async def test_a_message_may_come_in_pieces(network: Network) -> None:
    victim, own = network.start("victim"), network.start("own")
    async with Driver(victim.socket) as driver, Driver(own.socket) as outside:
        data = messages.encode(Liar(network, outside, own, victim).message(Kind.REQUEST))
        async with await outside.dial(f"{victim.node_id}:444", no_delay=True) as stream:
            for start in range(0, len(data), 100):
                await stream.send(data[start : start + 100])
            await until_pending(driver, own.node_id)


async def test_one_sided_trust_admits_nobody(
    network: Network,
) -> None:
    async with pair(network) as (a, b, first, second):
        await establish(a, b, first, second)
        second.process.kill()
        path = network.path / "agent-b" / "trust.json"
        path.unlink()
        registry = registry_of(network, second)
        await registry.revoke_trust(first.node_id)
        await registry.aclose()
        again = network.start("agent-b", "--private")
        async with Driver(again.socket) as b:
            # One side alone opens nothing at the other.
            await hears_nothing(a, again)
            assert await b.trusted() == ()


async def test_a_peer_that_only_tells_the_registry_that_it_revoked_is_a_stranger(
    network: Network,
) -> None:
    """As first-generation nodes often do: the message on port 444 gets lost."""
    async with pair(network) as (a, b, first, second):
        await establish(a, b, first, second)
        stream = await a.dial(f"{second.node_id}:7")
        registry = registry_of(network, second)
        second.process.kill()
        await registry.revoke_trust(first.node_id)
        # At once, by the poll that the registry holds; the default heartbeat is 30 s.
        await until_untrusted(a, second.node_id)
        with pytest.raises(StreamBroken):
            await read_to_end(stream)
        await stream.aclose()
        # It asks anew, and waits like any stranger.
        await registry.request_handshake(first.node_id, "again")
        await until_pending(a, second.node_id)
        assert await a.trusted() == ()
        await registry.aclose()


# Verbs


async def test_verbs_answer_as_existing_drivers_expect(shared_network: Network) -> None:
    node = shared_network.nodes["agent-a"]
    async with Driver(node.socket, framed=True) as driver:
        assert await driver.call(codes.HANDSHAKE, b"\x04") == {"pending": []}
        assert await driver.call(codes.HANDSHAKE, b"\x05") == {"trusted": []}
        unknown = await driver.call(codes.HANDSHAKE, ApproveTrust(77).pack())
        assert (unknown["node_id"], unknown["status"]) == (77, "approved")
        waited = await driver.call(codes.HANDSHAKE, AwaitTrust(77, 100).pack())
        assert waited == {"node_id": 77, "trusted": False}
        for payload, text in (
            (b"", "handshake: missing sub-command"),
            (b"\x99", "handshake: unknown sub-command 0x99"),
            (b"\x01\x00", "handshake request: missing node_id"),
            (RevokeTrust(77).pack(), "handshake revoke: node 77 was not trusted"),
        ):
            with pytest.raises(PilotError) as refused:
                await driver.call(codes.HANDSHAKE, payload)
            assert refused.value.message == text


async def test_invalid_requests_are_refused(shared_network: Network) -> None:
    node = shared_network.nodes["agent-a"]
    async with Driver(node.socket) as driver:
        with pytest.raises(InvalidArgument):
            await driver.handshake(node.node_id)
        with pytest.raises(InvalidArgument, match="at most 1024 fit"):
            await driver.handshake("agent-b", "x" * 1025)
        with pytest.raises(NotFound):
            await driver.handshake(4_000_000)
        with pytest.raises(NotFound):
            await driver.handshake("nobody-has-this-name")
        assert await driver.wait_for_trust(4_000_000, 0) is False
