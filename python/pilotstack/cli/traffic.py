"""Commands that move data: probes, messages, pipes."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click
import msgspec
from msgspec import UNSET, UnsetType

from pilotstack import _commands, wellknown
from pilotstack.cli.context import (
    asynchronous,
    find,
    global_options,
    registry_options,
    split_target,
)
from pilotstack.cli.durations import Duration
from pilotstack.cli.outcome import Incomplete
from pilotstack.cli.pipe import answer, join, read_all
from pilotstack.cli.progress import bar
from pilotstack.cli.text import members_of
from pilotstack.errors import ConnectionFailed, InvalidArgument, PilotError, TimedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pilotstack.cli.output import Output
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.client import Driver, Stream
    from pilotstack.services.secure import SecureStream

    #: Puts a channel over a stream.
    Wrap = Callable[[Driver, Stream], Awaitable[SecureStream]]

MIB = 1 << 20
_CHUNK = 1 << 18
_MAX_BENCH = 4096
#: Seconds between two checks of the daemon's tunnels.
_LOOK_AGAIN = 0.05
PORT = click.IntRange(1, 65_535)
TIMEOUT = click.option(
    "--timeout",
    type=Duration(),
    default=30.0,
    show_default="30s",
    help="For the connection, and the answer to a message.",
)


class Probe(msgspec.Struct, omit_defaults=True):
    """A round trip, or why there was none."""

    seq: int
    bytes: int = 0
    rtt_ms: float = 0.0
    error: str = ""


class DatagramRow(msgspec.Struct):
    """What a stream brought, or why it broke."""

    seq: int
    port: int
    data: str | UnsetType = UNSET
    bytes: int | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Arrival(msgspec.Struct):
    """A datagram."""

    src_addr: str
    src_port: int
    data: str
    bytes: int


def _failure(target: str, error: Exception) -> PilotError:
    """Why a probe failed: a stream that the peer closed is no timeout."""
    if isinstance(error, anyio.EndOfStream):
        return ConnectionFailed(
            f"{target} does not answer: it closed the stream",
            hint="it may not trust this node: pilotctl handshake NODE",
        )
    text = str(error) or "no answer in time"
    return TimedOut(f"{target} does not answer: {text}", hint="check that its daemon runs")


@_commands.command()
@click.argument("target")
@click.option("--count", type=click.IntRange(1), default=4, show_default=True, help="Round trips.")
@click.option(
    "--interval", type=Duration(), default=0.2, show_default="200ms", help="Between two of them."
)
@click.option(
    "--timeout",
    type=Duration(),
    default=30.0,
    show_default="30s",
    help="For the connection, and for each answer.",
)
@global_options
@asynchronous
async def ping(
    settings: Settings, target: str, count: int, interval: float, timeout: float
) -> None:
    """Measure round trips to a node's echo service."""
    results: list[Probe] = []
    output = settings.output
    failure: PilotError | None = None
    async with settings.driver() as driver:
        address = await find(driver, target)
        try:
            with anyio.fail_after(timeout):
                stream = await driver.dial((address, wellknown.ECHO_PORT), no_delay=True)
            async with stream:
                for seq in range(count):
                    if seq:
                        await anyio.sleep(interval)
                    with anyio.fail_after(timeout):
                        results.append(await _probe(stream, seq))
                    output.step(
                        f"seq={seq} bytes={results[-1].bytes} time={results[-1].rtt_ms:.3f}ms"
                    )
        except (TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            failure = _failure(target, error)
            results.append(Probe(len(results), error=failure.message))
    answered = [row.rtt_ms for row in results if row.rtt_ms]
    data = {
        "target": target,
        "to": str(address),
        "results": [members_of(row) for row in results],
        "timeout": isinstance(failure, TimedOut),
    }
    summary = f"{len(answered)} of {count} answered"
    if answered:
        mean = sum(answered) / len(answered)
        times = f"{min(answered):.3f}/{mean:.3f}/{max(answered):.3f}"
        summary += f", min/avg/max {times} ms"
    if failure is not None:
        if answered:
            output.step(summary)
        raise Incomplete(failure, data)
    output.success(data, lambda screen: screen.print(summary))


async def _probe(stream: Stream, seq: int) -> Probe:
    payload = f"ping-{seq}".encode()
    begin = time.perf_counter()
    await stream.send(payload)
    echoed = b""
    while len(echoed) < len(payload):
        echoed += await stream.receive()
    elapsed = time.perf_counter() - begin
    return Probe(seq, len(echoed), round(elapsed * 1000, 3))


@_commands.command()
@click.argument("target")
@click.argument("size_mb", type=click.FloatRange(0.001, _MAX_BENCH), default=1)
@click.option(
    "--timeout", type=Duration(), default=120.0, show_default="120s", help="For the whole command."
)
@global_options
@asynchronous
async def bench(settings: Settings, target: str, size_mb: float, timeout: float) -> None:
    """Send SIZE_MB MiB to a node's echo service and back, and report MiB per second."""
    size = int(size_mb * MIB)
    output = settings.output
    received = 0
    send_time = 0.0
    progress = bar(output)
    async with settings.driver() as driver:
        address = await find(driver, target)
        stream = await driver.dial((address, wellknown.ECHO_PORT), timeout=timeout)
        begin = time.perf_counter()

        async def send() -> None:
            nonlocal send_time
            block = bytes(range(256)) * (_CHUNK // 256)
            sent = 0
            while sent < size:
                chunk = block[: size - sent]
                await stream.send(chunk)
                sent += len(chunk)
            send_time = time.perf_counter() - begin

        with progress, anyio.fail_after(timeout):
            task = progress.add_task(f"echo via {target}", total=size)
            async with stream, anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                with suppress(anyio.EndOfStream):
                    while received < size:
                        received += len(await stream.receive())
                        progress.update(task, completed=received)
        total_time = time.perf_counter() - begin
    if received != size:
        raise ConnectionFailed(f"only {received} of {size} bytes came back")
    data = {
        "target": target,
        "sent_bytes": size,
        "recv_bytes": received,
        "send_duration_ms": round(send_time * 1000, 3),
        "total_duration_ms": round(total_time * 1000, 3),
        "send_mbps": round(size / MIB / send_time, 3),
        "total_mbps": round(size / MIB / total_time, 3),
        "send_bytes_per_second": round(size / send_time),
        "bytes_per_second": round(size / total_time),
        "complete": True,
    }

    def render(screen: Screen) -> None:
        screen.print(
            f"Sent:   {size / MIB:.1f} MiB in {send_time * 1000:.0f}ms "
            f"({data['send_mbps']:.1f} MiB/s)"
        )
        screen.print(
            f"Echoed: {received / MIB:.1f} MiB in {total_time * 1000:.0f}ms "
            f"({data['total_mbps']:.1f} MiB/s)"
        )

    output.success(data, render)


@_commands.command()
@click.argument("target")
@click.argument("port", type=PORT, required=False)
@click.option("--message", help="Send this, print the answer, and end.")
@click.option("--raw", is_flag=True, help="Do not escape control characters on a terminal.")
@click.option(
    "--secure",
    is_flag=True,
    help="Encrypt from program to program (X25519, AES-256-GCM); the port is 443 unless given.",
)
@click.option(
    "--suite",
    type=click.Choice(["g1", "g2"]),
    help="With --secure: how the server derives its key; g1, unless it speaks first.",
)
@click.option(
    "--identity",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --secure: this node's identity file, for servers that authenticate their clients.",
)
@TIMEOUT
@registry_options
@global_options
@asynchronous
async def connect(
    settings: Settings,
    target: str,
    port: int | None,
    message: str | None,
    raw: bool,
    secure: bool,
    suite: str | None,
    identity: Path | None,
    timeout: float,
) -> None:
    """Join stdin and stdout to a stream, until the peer closes; the port is 1000 unless given.

    What the peer sends is shown with control characters escaped, if stdout is a terminal.
    """
    if not secure and (suite or identity):
        raise InvalidArgument("--suite and --identity are for --secure")
    default = wellknown.SECURE_PORT if secure else wellknown.STDIO_PORT
    host, chosen = split_target(target, port, default)
    wrap: Wrap | None = None
    if secure:
        # It imports what no other command needs.
        from pilotstack.cli import secured

        async def wrap(driver: Driver, stream: Stream) -> SecureStream:
            return await secured.wrap(settings, driver, stream, suite, identity)

    if message is not None:
        await _exchange(settings, host, chosen, message, timeout, wrap)
        return
    async with settings.driver() as driver:
        address = await find(driver, host)
        async with await driver.dial((address, chosen), timeout=timeout) as stream:
            used = stream if wrap is None else await wrap(driver, stream)
            await join(used, is_raw=raw or not sys.stdout.isatty())


@_commands.command()
@click.argument("port", type=PORT, default=wellknown.STDIO_PORT)
@click.option("--raw", is_flag=True, help="Do not escape control characters on a terminal.")
@click.option("--timeout", type=Duration(), default=None, help="For somebody to connect.")
@global_options
@asynchronous
async def accept(settings: Settings, port: int, raw: bool, timeout: float | None) -> None:
    """Take one stream on a port, and join stdin and stdout to it; the port is 1000 unless given.

    It is the other side of `pilotctl connect`.
    """
    async with settings.driver() as driver, await driver.listen(port) as listener:
        try:
            with anyio.fail_after(timeout):
                stream = await listener.accept()
        except TimeoutError as error:
            raise TimedOut(
                f"nobody connected to port {port} within {timeout:g}s",
                hint=f"at the other node: pilotctl connect {await _own_name(driver)} {port}",
            ) from error
        await listener.aclose()
        async with stream:
            await join(stream, is_raw=raw or not sys.stdout.isatty())


async def _own_name(driver: Driver) -> str:
    info = await driver.info()
    return info.hostname or str(info.address)


@_commands.command()
@click.argument("target")
@click.argument("port", type=PORT, required=False)
@click.option("--data", required=True, help="What to send.")
@TIMEOUT
@global_options
@asynchronous
async def send(
    settings: Settings, target: str, port: int | None, data: str, timeout: float
) -> None:
    """Send one message on a stream and print the answer."""
    host, chosen = split_target(target, port)
    await _exchange(settings, host, chosen, data, timeout)


async def _exchange(
    settings: Settings,
    target: str,
    port: int,
    message: str,
    timeout: float,
    wrap: Wrap | None = None,
) -> None:
    async with settings.driver() as driver:
        address = await find(driver, target)
        with settings.output.waiting(f"waiting for {target}"), anyio.fail_after(timeout):
            async with await driver.dial((address, port), timeout=timeout) as stream:
                used = stream if wrap is None else await wrap(driver, stream)
                await used.send(message.encode())
                response = await answer(driver, used)
    text = response.decode(errors="replace")
    data = {"target": target, "port": port, "sent": message, "response": text}
    settings.output.success(data, lambda screen: screen.print(text))


@_commands.command()
@click.argument("port", type=PORT)
@click.option(
    "--count", type=click.IntRange(1), default=1, show_default=True, help="Streams to take."
)
@click.option(
    "--timeout", type=Duration(), default=30.0, show_default="30s", help="For all of them."
)
@global_options
@asynchronous
async def recv(settings: Settings, port: int, count: int, timeout: float) -> None:
    """Take streams on a port and print what each one sends, to its end."""
    messages: list[DatagramRow] = []
    waiting = settings.output.waiting(f"waiting for streams on port {port}")
    async with settings.driver() as driver, await driver.listen(port) as listener:
        with waiting, anyio.move_on_after(timeout):
            while len(messages) < count:
                async with await listener.accept() as stream:
                    row = DatagramRow(len(messages), port)
                    try:
                        content = await read_all(stream)
                        row.data, row.bytes = content.decode(errors="replace"), len(content)
                    except PilotError as error:
                        row.error = str(error)
                messages.append(row)

    def render(screen: Screen) -> None:
        for row in messages:
            screen.print(row.data if row.data is not UNSET else row.error)

    _report_arrivals(settings.output, messages, count, render)


def _report_arrivals(
    output: Output,
    messages: Sequence[msgspec.Struct],
    count: int,
    render: Callable[[Screen], None],
) -> None:
    """Prints the messages; fewer than ``count`` are a failure."""
    is_short = len(messages) < count
    data = {"messages": [members_of(row) for row in messages], "timeout": is_short}
    if not is_short:
        output.success(data, render)
        return
    if not output.is_json:
        render(output.screen)
    text = f"{len(messages)} of {count} arrived in time" if messages else "nothing arrived in time"
    raise Incomplete(TimedOut(text, hint="raise --timeout"), data)


@_commands.command()
@click.argument("target")
@click.argument("port", type=PORT, required=False)
@click.option("--data", required=True, help="What to send.")
@click.option(
    "--timeout",
    type=Duration(),
    default=10.0,
    show_default="10s",
    help="For a tunnel to the node.",
)
@global_options
@asynchronous
async def dgram(
    settings: Settings, target: str, port: int | None, data: str, timeout: float
) -> None:
    """Send one datagram.

    It fails unless a tunnel to the node exists. Whether the datagram arrived is not confirmed.
    """
    host, chosen = split_target(target, port)
    payload = data.encode()
    async with settings.driver() as driver:
        address = await find(driver, host)
        async with await driver.datagram() as datagrams:
            await datagrams.send_to(payload, (address, chosen))
            try:
                with settings.output.waiting(f"waiting for {host}"), anyio.fail_after(timeout):
                    await _until_tunnelled(driver, address.node)
            except TimeoutError as error:
                raise ConnectionFailed(
                    f"no tunnel to {host} in time: the datagram was not sent",
                    hint="check the id, and that the node's daemon runs",
                ) from error
    settings.output.success(
        {"target": host, "port": chosen, "bytes": len(payload), "confirmed": False}
    )


async def _until_tunnelled(driver: Driver, node_id: int) -> None:
    """Returns when the daemon has a tunnel to a node; at once if the node is its own."""
    while True:
        info = await driver.info()
        if node_id == info.node_id or len(info.peer_list) < info.peers:
            # It needs none, or the list of peers is incomplete.
            return
        if any(peer.node_id == node_id and peer.encrypted for peer in info.peer_list):
            return
        await anyio.sleep(_LOOK_AGAIN)


@_commands.command()
@click.argument("port", type=PORT)
@click.option(
    "--count", type=click.IntRange(0), default=0, help="End after this many; 0 never does."
)
@click.option("--timeout", type=Duration(), default=None, help="End after this time.")
@global_options
@asynchronous
async def listen(settings: Settings, port: int, count: int, timeout: float | None) -> None:
    """Print datagrams that arrive on a port."""
    messages: list[Arrival] = []
    output = settings.output
    async with settings.driver() as driver, await driver.datagram(port) as datagrams:
        with anyio.move_on_after(timeout):
            while not count or len(messages) < count:
                datagram = await datagrams.receive()
                row = Arrival(
                    str(datagram.source.address),
                    datagram.source.port,
                    datagram.data.decode(errors="replace"),
                    len(datagram.data),
                )
                if count:
                    messages.append(row)
                else:
                    output.line(
                        {"type": "datagram", **members_of(row)}, f"{datagram.source}  {row.data}"
                    )
    if not count:
        return

    def render(screen: Screen) -> None:
        for row in messages:
            screen.print(f"{row.src_addr}:{row.src_port}  {row.data}")

    _report_arrivals(output, messages, count, render)


COMMANDS = (ping, bench, connect, accept, send, recv, dgram, listen)
