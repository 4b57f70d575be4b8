"""Events between real daemons, by ``pilotctl`` and by the SDK."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.support.pilotctl import _COMMAND, Pilotctl
from tests.support.relayed import relayed_pair

from pilotstack import Driver
from pilotstack.services import event_stream as events
from pilotstack.services.event_stream.codec import Event, encode

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.testing import Network

pytestmark = pytest.mark.anyio


def ask(ctl: Pilotctl, *arguments: object, stdin: str = "") -> dict[str, Any]:
    result = ctl.run(*arguments, stdin=stdin)
    assert result.returncode == 0, result.stdout + result.stderr
    data: dict[str, Any] = json.loads(result.stdout)["data"]
    return data


def start(ctl: Pilotctl, *arguments: str) -> subprocess.Popen[bytes]:
    """A command that runs meanwhile."""
    command = [str(_COMMAND), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | ctl.environment)


async def until_subscribed(node: Driver, count: int) -> None:
    """Returns when so many streams lead to the broker."""
    while True:
        open_now = [row for row in await node.connections() if row.local_port == 1002]
        if len([row for row in open_now if row.state == "ESTABLISHED"]) >= count:
            return
        await anyio.lowlevel.checkpoint()


async def test_events_are_iterated_over(a: Driver, b: Driver) -> None:
    async with events.subscribe(a, "agent-b", "research.updates") as subscription:
        assert await subscription.confirmed()
        await events.publish(a, "agent-b", "research.updates", "new paper available")
        await events.publish(b, "agent-b", "other", "not this")
        await events.publish(b, "agent-b", "research.updates", "and another")
        got = [await anext(subscription) for _ in range(2)]
    assert [(event.topic, event.text) for event in got] == [
        ("research.updates", "new paper available"),
        ("research.updates", "and another"),
    ]


async def test_a_publisher_as_fast_as_it_can_loses_nothing(a: Driver, b: Driver) -> None:
    count = 20_000
    got: list[int] = []

    async def take(subscription: events.Subscription) -> None:
        async for event in subscription:
            got.append(int(event.payload))
            if len(got) == count:
                return

    async with events.subscribe(a, "agent-b", "*") as subscription:
        assert await subscription.confirmed()
        async with anyio.create_task_group() as tasks, events.publish_to(b, "agent-b") as publisher:
            tasks.start_soon(take, subscription)
            for number in range(count):
                await publisher.publish("t", str(number))
    assert got == list(range(count))
    assert subscription.lost == 0


async def test_the_command_line_subscribes_and_publishes(network: Network) -> None:
    network.start("agent-a")
    b = network.start("agent-b")
    ctl = Pilotctl.of(network, "agent-a")
    rest = ("--timeout", "30s")
    async with Driver(b.socket) as driver:
        with (
            start(ctl, "subscribe", "agent-b", "*", "--count", "3", *rest) as counted,
            start(ctl, "subscribe", "agent-b", "t", *rest) as streamed,
        ):
            await until_subscribed(driver, 2)
            sent = await anyio.to_thread.run_sync(
                ask, ctl, "publish", "agent-b", "t", "--data", "new paper"
            )
            assert (sent["topic"], sent["bytes"], sent["confirmed"]) == ("t", 9, True)
            assert sent["target"] == b.address

            def publish_lines() -> dict[str, Any]:
                return ask(ctl, "publish", "agent-b", "u", "--lines", stdin="one\ntwo\n")

            assert (await anyio.to_thread.run_sync(publish_lines))["events"] == 2
            out, _ = await anyio.to_thread.run_sync(counted.communicate)
            assert counted.returncode == 0
            assert streamed.stdout is not None
            line = await anyio.to_thread.run_sync(streamed.stdout.readline)
            streamed.terminate()
    data = json.loads(out)["data"]
    assert (data["timeout"], data["lost"]) == (False, 0)
    assert [(row["topic"], row["data"]) for row in data["events"]] == [
        *(("t", "new paper"), ("u", "one"), ("u", "two"))
    ]
    assert json.loads(line) == {"topic": "t", "data": "new paper", "bytes": 9}


async def test_the_command_line_subscribes_again(network: Network) -> None:
    network.start("agent-a")
    b = network.start("agent-b")
    ctl = Pilotctl.of(network, "agent-a")
    with start(ctl, "subscribe", "agent-b", "t", "--reconnect") as subscriber:
        async with Driver(b.socket) as driver:
            await until_subscribed(driver, 1)
        b.process.stop()
        b = network.start("agent-b")
        async with Driver(b.socket) as driver:
            await until_subscribed(driver, 1)
        await anyio.to_thread.run_sync(ask, ctl, "publish", "agent-b", "t", "--data", "again")
        assert subscriber.stdout is not None
        lines = [await anyio.to_thread.run_sync(subscriber.stdout.readline) for _ in range(2)]
        subscriber.terminate()
    gap, event = map(json.loads, lines)
    assert gap == {"type": "break", "breaks": 1}
    assert event["data"] == "again"


async def test_a_subscription_without_events_times_out(network: Network) -> None:
    network.start("agent-a")
    result = Pilotctl.of(network, "agent-a").run(
        *("subscribe", "agent-a", "none", "--count", "1", "--timeout", "300ms")
    )
    answer = json.loads(result.stdout)
    assert (answer["code"], result.returncode) == ("timeout", 7)
    assert answer["data"] == {"events": [], "timeout": True, "lost": 0}


async def test_bad_bytes_end_one_stream_and_no_other(network: Network) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    async with Driver(a.socket) as driver, Driver(b.socket) as other:
        async with events.subscribe(driver, "agent-b", "t") as subscription:
            await subscription.confirmed()
            for bad in (
                b"\x04\x01",
                encode(Event("t")) + b"\x00\x01t\xff\xff\xff\xff",
                b"\x00\x01\xff" + bytes(4),
            ):
                async with await driver.dial("agent-b:1002") as stream:
                    await stream.send(bad)
                    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                        while True:
                            await stream.receive()
            await events.publish(driver, "agent-b", "t", "still here")
            assert (await anext(subscription)).text == "still here"
        assert (await other.info()).dropped["service_events_malformed"] == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_observer_of_the_datagrams_reads_nothing(network: Network, tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    with relayed_pair(network, capture=capture) as (a, _, _):
        async with (
            Driver(a.socket) as driver,
            events.subscribe(driver, "agent-b", "research.updates") as subscription,
        ):
            await subscription.confirmed()
            await events.publish(driver, "agent-b", "research.updates", "new paper available")
            assert (await anext(subscription)).text == "new paper available"
    wire = capture.read_bytes()
    assert b"research" not in wire
    assert b"new paper" not in wire
