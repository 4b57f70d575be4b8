"""The client's connection against registries that break, refuse and stay silent."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from pilotstack.errors import ConnectionFailed
from pilotstack.registry.client import connection as module
from pilotstack.registry.client.connection import Connection
from pilotstack.registry.protocol import framing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

STANDBY = {"type": "error", "error": "standby mode: write operations not accepted (use primary x)"}
OLD_STANDBY = {"type": "error", "error": "standby mode: write operations not accepted"}


class Scripted:
    """A registry that does as it is told: replies with a message, or hangs up on ``None``."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[framing.Message] = []
        self.reply: Callable[[int], framing.Message | None] = lambda number: {"type": "ok"}
        self.address: tuple[str, int] = ("", 0)

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        framer = framing.Framer()
        async with stream:
            while True:
                while (body := framer.next_body()) is not None:
                    self.requests.append(framing.decode(body))
                    reply = self.reply(len(self.requests))
                    if reply is None:
                        return
                    await stream.send(framing.encode(reply))
                try:
                    framer.feed(await stream.receive())
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return


def address_of(listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> tuple[str, int]:
    address = listener.extra(anyio.abc.SocketAttribute.local_address)
    return str(address[0]), int(address[1])


@asynccontextmanager
async def registries(count: int) -> AsyncIterator[list[Scripted]]:
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        found = []
        for _ in range(count):
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            await stack.enter_async_context(listener)
            scripted = Scripted()
            scripted.address = address_of(listener)
            tasks.start_soon(listener.serve, scripted.serve)
            found.append(scripted)
        yield found
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def connected(*scripted: Scripted) -> AsyncIterator[Connection]:
    connection = Connection([each.address for each in scripted])
    try:
        yield connection
    finally:
        await connection.aclose()


async def test_requests_share_a_connection() -> None:
    async with registries(1) as (only,), connected(only) as connection:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(connection.request, {"type": "x", "number": number})
        assert only.connections == 1
        assert sorted(request["number"] for request in only.requests) == list(range(20))


async def test_a_broken_connection_is_replaced_and_the_request_sent_once_more() -> None:
    async with registries(1) as (only,), connected(only) as connection:
        only.reply = lambda number: None if number == 2 else {"type": "ok"}
        await connection.request({"type": "first"})
        await connection.request({"type": "second"})
        assert [request["type"] for request in only.requests] == ["first", "second", "second"]
        assert only.connections == 2
        # A new connection that breaks at once is not tried again.
        only.reply = lambda number: None
        with pytest.raises(ConnectionFailed) as failed:
            await connection.request({"type": "third"})
        assert failed.value.hint
        assert [request["type"] for request in only.requests].count("third") == 2


async def test_a_refusal_is_returned_as_a_reply() -> None:
    async with registries(2) as (first, second), connected(first, second) as connection:
        first.reply = lambda number: {"type": "error", "error": "no"}
        assert (await connection.request({"type": "x"}))["error"] == "no"
        assert second.connections == 0


@pytest.mark.parametrize("refusal", [STANDBY, OLD_STANDBY, {"error": "x", "code": "standby"}])
async def test_a_standbys_refusal_leads_to_the_primary(refusal: framing.Message) -> None:
    async with registries(3) as (first, second, third), connected(first, second, third) as moving:
        first.reply = second.reply = lambda number: refusal
        assert (await moving.request({"type": "write"}))["type"] == "ok"
        assert moving.address == third.address
        await moving.request({"type": "write"})
        assert (first.connections, second.connections, third.connections) == (1, 1, 1)
        # The roles change.
        third.reply, first.reply = first.reply, lambda number: {"type": "ok"}
        assert (await moving.request({"type": "write"}))["type"] == "ok"
        assert moving.address == first.address


async def test_the_refusal_of_a_standby_is_returned_if_there_is_no_primary() -> None:
    async with registries(2) as (first, second), connected(first, second) as connection:
        first.reply = second.reply = lambda number: STANDBY
        assert await connection.request({"type": "write"}) == STANDBY
        assert connection.address == first.address
        first.reply = lambda number: {"type": "ok"}
        assert (await connection.request({"type": "read"}))["type"] == "ok"
        assert first.connections == 1


async def test_a_dead_registry_is_skipped_and_used_again_later() -> None:
    async with registries(2) as (first, second), connected(first, second) as connection:
        first.reply = lambda number: None
        assert (await connection.request({"type": "read"}))["type"] == "ok"
        assert connection.address == second.address
        second.reply = lambda number: None
        first.reply = lambda number: {"type": "ok"}
        assert (await connection.request({"type": "read"}))["type"] == "ok"
        assert connection.address == first.address


async def test_a_failure_names_every_registry_that_was_tried() -> None:
    async with registries(2) as found:
        addresses = [each.address for each in found]
    connection = Connection(addresses)
    with pytest.raises(ConnectionFailed) as failed:
        await connection.request({"type": "read"})
    for host, port in addresses:
        assert f"{host}:{port}" in failed.value.message


async def test_a_silent_registry_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLY", 0.2)

    async def swallow(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with (
        registries(1) as (second,),
        await anyio.create_tcp_listener(local_host="127.0.0.1") as silent,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(silent.serve, swallow)
        connection = Connection([address_of(silent), second.address])
        assert (await connection.request({"type": "read"}))["type"] == "ok"
        assert connection.address == second.address
        # It is not asked twice, as a registry whose connection breaks is.
        assert len(second.requests) == 1
        await connection.aclose()
        tasks.cancel_scope.cancel()


async def test_requests_queued_behind_a_silent_registry_time_out_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REPLY", 0.5)
    monkeypatch.setattr(module, "LEAST", 0.0)
    opened: list[anyio.abc.SocketStream] = []

    async def swallow(stream: anyio.abc.SocketStream) -> None:
        opened.append(stream)
        async with stream:
            await anyio.sleep_forever()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as silent,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(silent.serve, swallow)
        connection = Connection([address_of(silent)])

        async def ask() -> None:
            with pytest.raises(ConnectionFailed, match="the registry at"):
                await connection.request({"type": "read"})

        async with anyio.create_task_group() as asking:
            for _ in range(20):
                asking.start_soon(ask)
        # They waited together, not one after the other, each with a connection of its own.
        assert len(opened) < 10
        await connection.aclose()
        tasks.cancel_scope.cancel()


async def test_a_cancelled_request_leaves_no_reply_for_the_next() -> None:
    async with registries(1) as (only,), connected(only) as connection:
        only.reply = lambda number: {"type": "ok", "number": number}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.request, {"type": "cancelled"})
            while not only.requests:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        reply = await connection.request({"type": "next"})
        assert reply["number"] == len(only.requests)


def standing(cluster: str, term: int = 0, **members: object) -> framing.Message:
    return {"type": "ok", "cluster": cluster, "term": term, **members}


async def test_the_highest_term_is_sent_with_every_request_and_wins() -> None:
    async with registries(2) as (old, new), connected(old, new) as connection:
        old.reply = lambda number: standing("c")
        new.reply = lambda number: standing("c", 1, term_proof="proof")
        assert (await connection.request({"type": "a"}))["term"] == 0
        # The old one goes away for a moment.
        old.reply = lambda number: None
        assert (await connection.request({"type": "b"}))["term"] == 1
        new.reply = lambda number: None
        # It does not know of terms, so it answered; nobody takes that for an answer.
        old.reply = lambda number: standing("c")
        with pytest.raises(ConnectionFailed, match="replaced"):
            await connection.request({"type": "c"})
        told = old.requests[-1]
        assert (told["cluster"], told["term"], told["term_proof"]) == ("c", 1, "proof")
        # One that knows may still be read.
        old.reply = lambda number: standing("c", replaced=True)
        assert (await connection.request({"type": "d"}))["replaced"]
        new.reply = lambda number: standing("c", 1)
        assert (await connection.request({"type": "e"}))["term"] == 1
        assert connection.address == new.address


async def test_a_term_that_no_registry_knows_is_given_up_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with registries(2) as (first, second), connected(first, second) as connection:
        # Somebody on the way made it up.
        first.reply = lambda number: standing("c", (1 << 31) - 1, term_proof="forged")
        await connection.request({"type": "a"})
        first.reply = second.reply = lambda number: standing("c")
        with pytest.raises(ConnectionFailed, match="replaced"):
            await connection.request({"type": "b"})
        # While one of the list is silent, it may be the one that serves.
        monkeypatch.setattr(module, "PATIENCE", 0)
        second.reply = lambda number: None
        with pytest.raises(ConnectionFailed):
            await connection.request({"type": "c"})
        with pytest.raises(ConnectionFailed):
            await connection.request({"type": "d"})
        second.reply = lambda number: standing("c")
        with pytest.raises(ConnectionFailed, match="replaced"):
            await connection.request({"type": "e"})
        assert (await connection.request({"type": "f"}))["term"] == 0


async def test_a_term_out_of_range_is_ignored() -> None:
    async with registries(1) as (only,), connected(only) as connection:
        only.reply = lambda number: standing("c", (1 << 32) - 1, term_proof="forged")
        await connection.request({"type": "a"})
        only.reply = lambda number: standing("c")
        assert (await connection.request({"type": "b"}))["term"] == 0


async def test_another_cluster_is_accepted_only_if_the_known_one_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with registries(2) as (first, second), connected(first, second) as connection:
        first.reply = second.reply = lambda number: standing("c")
        await connection.request({"type": "a"})
        first.reply = lambda number: standing("d", code="foreign", error="another cluster")
        assert (await connection.request({"type": "b"}))["cluster"] == "c"
        # The other one is silent: it may come back.
        second.reply = lambda number: None
        with pytest.raises(ConnectionFailed):
            await connection.request({"type": "c"})
        # It does not.
        monkeypatch.setattr(module, "PATIENCE", 0)
        first.reply = lambda number: (
            standing("d") if first.requests[-1].get("cluster") == "d" else foreign("d")
        )
        reply = await connection.request({"type": "d"})
        assert (reply["cluster"], "error" in reply) == ("d", False)


def foreign(cluster: str) -> framing.Message:
    return standing(cluster, code="foreign", error="another cluster")


async def test_a_request_refused_for_the_old_cluster_is_sent_again() -> None:
    async with registries(1) as (only,), connected(only) as connection:
        only.reply = lambda number: standing("c", 3, term_proof="proof")
        await connection.request({"type": "a"})
        only.reply = lambda number: (
            foreign("d") if only.requests[-1]["cluster"] == "c" else standing("d")
        )
        assert "error" not in await connection.request({"type": "b"})
        assert only.requests[-1] == {"type": "b", "cluster": "d"}


@pytest.mark.parametrize(
    "odd",
    [
        {"cluster": 7, "term": "x"},
        {"cluster": "c" * 1000, "term": 1},
        {"cluster": "c", "term": -1, "term_proof": 9},
        {"cluster": "c", "term": 1 << 70},
    ],
)
async def test_malformed_clusters_and_terms_are_ignored(odd: framing.Message) -> None:
    async with registries(1) as (only,), connected(only) as connection:
        only.reply = lambda number: {"type": "ok", **odd}
        for _ in range(2):
            assert (await connection.request({"type": "a"}))["type"] == "ok"
