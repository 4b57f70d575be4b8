"""Commands for events: publish them, and print those of a topic."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import click

from pilotstack import _commands, wellknown
from pilotstack.cli.context import asynchronous, find, global_options, split_target
from pilotstack.cli.durations import Duration
from pilotstack.cli.outcome import Incomplete
from pilotstack.errors import InvalidArgument, TimedOut

if TYPE_CHECKING:
    from pilotstack.cli.output import Output
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.services.event_stream import Event, Lost, Publisher, Subscription

_STDIN = "-"


@_commands.command()
@click.argument("target")
@click.argument("topic")
@click.option(
    "--count", type=click.IntRange(0), default=0, help="End after this many; 0 never does."
)
@click.option("--timeout", type=Duration(), default=None, help="End after this time.")
@click.option(
    "--reconnect", is_flag=True, help="Subscribe again when the broker or the daemon was away."
)
@global_options
@asynchronous
async def subscribe(
    settings: Settings,
    target: str,
    topic: str,
    count: int,
    timeout: float | None,
    reconnect: bool,
) -> None:
    """Print the events of a topic at a node's broker; "*" means all topics.

    With --count they are one result at the end, otherwise a line for each.
    """
    from pilotstack.services import event_stream

    host, port = split_target(target, None, wellknown.EVENT_STREAM_PORT)
    output = settings.output
    events: list[dict[str, object]] = []
    async with settings.driver(reconnect=reconnect) as driver:
        address = await find(driver, host)
        subscription = event_stream.subscribe(
            driver, address, topic, port=port, reconnect=reconnect
        )
        subscription.on_break = lambda why: _tell_break(
            output, subscription.breaks, is_counted=bool(count)
        )
        subscription.on_lost = lambda lost: _tell_lost(output, lost, is_counted=bool(count))
        with anyio.move_on_after(timeout):
            async with subscription:
                if not output.is_json:
                    await _tell_ready(output, subscription, str(address))
                await _take(output, subscription, events, count)
    if count:
        _report(output, subscription, events, count)


async def _tell_ready(output: Output, subscription: Subscription, where: str) -> None:
    """Says on stderr that events are taken from now on."""
    with suppress(anyio.EndOfStream):
        is_confirmed = await subscription.confirmed()
        doubt = "" if is_confirmed else " (which does not confirm it)"
        output.progress.print(f"subscribed to {subscription.topic} at {where}{doubt}")


async def _take(
    output: Output, subscription: Subscription, events: list[dict[str, object]], count: int
) -> None:
    async for event in subscription:
        row = _row(event)
        if not count:
            output.line(row, f"{event.topic}  {row['data']}")
            continue
        events.append(row)
        if len(events) == count:
            return


def _row(event: Event) -> dict[str, object]:
    return {"topic": event.topic, "data": event.text, "bytes": len(event.payload)}


def _tell_lost(output: Output, lost: Lost, *, is_counted: bool) -> None:
    if not is_counted:
        data = {"type": "lost", "lost": lost.lost, "total": lost.total}
        output.line(data, f"(too slow: {lost.lost} events lost)")


def _tell_break(output: Output, breaks: int, *, is_counted: bool) -> None:
    if not is_counted:
        output.line(
            {"type": "break", "breaks": breaks}, "(the stream broke: events may be missing)"
        )


def _report(
    output: Output, subscription: Subscription, events: list[dict[str, object]], count: int
) -> None:
    is_short = len(events) < count
    data = {"events": events, "timeout": is_short, "lost": subscription.lost}

    def render(screen: Screen) -> None:
        for row in events:
            screen.print(f"{row['topic']}  {row['data']}")

    if not is_short:
        output.success(data, render)
        return
    if not output.is_json:
        render(output.screen)
    text = f"{len(events)} of {count} events came in time" if events else "no event came in time"
    raise Incomplete(TimedOut(text, hint="raise --timeout"), data)


@_commands.command()
@click.argument("target")
@click.argument("topic")
@click.option("--data", help='What to publish; "-" reads stdin.')
@click.option("--lines", is_flag=True, help="Publish each line of stdin as an event.")
@click.option(
    "--timeout", type=Duration(), default=30.0, show_default="30s", help="For the whole command."
)
@global_options
@asynchronous
async def publish(
    settings: Settings, target: str, topic: str, data: str | None, lines: bool, timeout: float
) -> None:
    """Publish an event at a node's broker.

    The broker confirms it, if it is one of ours. With --lines, --timeout is for the connection and
    the confirmation.
    """
    from pilotstack.services import event_stream

    if lines == (data is not None):
        raise InvalidArgument("--data is required", hint="or --lines, but not both")
    host, port = split_target(target, None, wellknown.EVENT_STREAM_PORT)
    size = events = 0
    async with settings.driver() as driver:
        address = await find(driver, host)
        publisher = event_stream.publish_to(driver, address, port=port)
        with anyio.fail_after(timeout) as limit:
            async with publisher:
                if lines:
                    limit.deadline = float("inf")
                    size, events = await _publish_lines(publisher, topic)
                    limit.deadline = anyio.current_time() + timeout
                else:
                    payload = sys.stdin.buffer.read() if data == _STDIN else (data or "").encode()
                    await publisher.publish(topic, payload)
                    size, events = len(payload), 1
            is_confirmed = publisher.has_flow_control
    result = {
        "target": str(address),
        "topic": topic,
        "bytes": size,
        "events": events,
        "confirmed": is_confirmed,
    }
    settings.output.success(result)


async def _publish_lines(publisher: Publisher, topic: str) -> tuple[int, int]:
    size = events = 0
    read = sys.stdin.buffer.readline
    while line := await anyio.to_thread.run_sync(read, abandon_on_cancel=True):
        payload = line.rstrip(b"\r\n")
        await publisher.publish(topic, payload)
        size, events = size + len(payload), events + 1
    return size, events


COMMANDS = (subscribe, publish)
