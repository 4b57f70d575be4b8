"""Commands that move data: probes, messages, pipes."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import rich_click as click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pilotstack import wellknown
from pilotstack.cli.context import Settings, asynchronous, find, global_options
from pilotstack.cli.durations import Duration
from pilotstack.errors import ConnectionFailed, PilotError, TimedOut

if TYPE_CHECKING:
    from rich.console import Console

    from pilotstack.client import Stream

MIB = 1 << 20
_CHUNK = 1 << 18
_MAX_BENCH = 4096
PORT = click.IntRange(1, 65_535)
TIMEOUT = click.option("--timeout", type=Duration(), default=30.0, show_default="30s")


@click.command()
@click.argument("target")
@click.option("--count", type=click.IntRange(1), default=4, show_default=True)
@click.option("--interval", type=Duration(), default=0.2, show_default="200ms")
@TIMEOUT
@global_options
@asynchronous
async def ping(
    settings: Settings, target: str, count: int, interval: float, timeout: float
) -> None:
    """Measure round trips to a node's echo service."""
    results: list[dict[str, Any]] = []
    output = settings.output
    async with settings.driver() as driver:
        address = await find(driver, target)
        try:
            with anyio.fail_after(timeout):
                stream = await driver.dial((address, wellknown.ECHO_PORT), no_delay=True)
                async with stream:
                    for seq in range(count):
                        if seq:
                            await anyio.sleep(interval)
                        results.append(await _probe(stream, seq))
                        output.step(
                            f"seq={seq} bytes={results[-1]['bytes']} "
                            f"time={results[-1]['rtt_ms']:.3f}ms"
                        )
        except (TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            text = str(error) or "no answer in time"
            results.append({"seq": len(results), "error": text})
            if not any("rtt_ms" in row for row in results):
                raise TimedOut(
                    f"{target} does not answer: {text}", hint="check that its daemon runs"
                ) from error
    data = {
        "target": target,
        "to": str(address),
        "results": results,
        "timeout": any("error" in row for row in results),
    }

    def render(console: Console) -> None:
        times = [row["rtt_ms"] for row in results if "rtt_ms" in row]
        console.print(
            f"{len(times)} of {count} answered, "
            f"min/avg/max {min(times):.3f}/{sum(times) / len(times):.3f}/{max(times):.3f} ms"
        )

    output.success(data, render)


async def _probe(stream: Stream, seq: int) -> dict[str, Any]:
    payload = f"ping-{seq}".encode()
    begin = time.perf_counter()
    await stream.send(payload)
    echoed = b""
    while len(echoed) < len(payload):
        echoed += await stream.receive()
    elapsed = time.perf_counter() - begin
    return {"seq": seq, "bytes": len(echoed), "rtt_ms": round(elapsed * 1000, 3)}


@click.command()
@click.argument("target")
@click.argument("size_mb", type=click.FloatRange(0.001, _MAX_BENCH), default=1)
@click.option("--timeout", type=Duration(), default=120.0, show_default="120s")
@global_options
@asynchronous
async def bench(settings: Settings, target: str, size_mb: float, timeout: float) -> None:
    """Send data to a node's echo service and back, and report MiB per second."""
    size = int(size_mb * MIB)
    output = settings.output
    received = 0
    send_time = 0.0
    progress = Progress(
        "[bold]{task.description}[/]",
        *(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
        console=output.progress,
        disable=not output.progress.is_terminal,
        transient=True,
    )
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
            await stream.send_eof()
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
        raise ConnectionFailed(f"only {received} of {size} octets came back")
    data = {
        "target": target,
        "sent_bytes": size,
        "recv_bytes": received,
        "send_duration_ms": round(send_time * 1000, 3),
        "total_duration_ms": round(total_time * 1000, 3),
        "send_mbps": round(size / MIB / send_time, 3),
        "total_mbps": round(size / MIB / total_time, 3),
        "complete": True,
    }

    def render(console: Console) -> None:
        console.print(
            f"Sent:   {size / MIB:.1f} MB in {send_time * 1000:.0f}ms "
            f"({data['send_mbps']:.1f} MB/s)"
        )
        console.print(
            f"Echoed: {received / MIB:.1f} MB in {total_time * 1000:.0f}ms "
            f"({data['total_mbps']:.1f} MB/s)"
        )

    output.success(data, render)


@click.command()
@click.argument("target")
@click.argument("port", type=PORT, default=wellknown.STDIO_PORT)
@click.option("--message", help="Send this, print the answer, and end.")
@TIMEOUT
@global_options
@asynchronous
async def connect(
    settings: Settings, target: str, port: int, message: str | None, timeout: float
) -> None:
    """Join stdin and stdout to a stream, until both ends close."""
    async with settings.driver() as driver:
        address = await find(driver, target)
        async with await driver.dial((address, port), timeout=timeout) as stream:
            if message is None:
                await _join(stream)
                return
            with anyio.fail_after(timeout):
                await stream.send(message.encode())
                await stream.send_eof()
                response = await _read_all(stream)
    text = response.decode(errors="replace")
    data = {"target": target, "port": port, "sent": message, "response": text}
    settings.output.success(data, lambda console: console.print(text, markup=False))


async def _read_all(stream: Stream) -> bytes:
    chunks = []
    with suppress(anyio.EndOfStream):
        while True:
            chunks.append(await stream.receive())
    return b"".join(chunks)


async def _join(stream: Stream) -> None:
    async def upstream() -> None:
        stdin = sys.stdin.buffer.raw if hasattr(sys.stdin.buffer, "raw") else sys.stdin.buffer
        while chunk := await anyio.to_thread.run_sync(stdin.read, _CHUNK, abandon_on_cancel=True):
            await stream.send(chunk)
        await stream.send_eof()

    async def downstream() -> None:
        with suppress(anyio.EndOfStream):
            while True:
                chunk = await stream.receive()
                await anyio.to_thread.run_sync(_write_out, chunk)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upstream)
        await downstream()
        if sys.stdin.isatty():
            # Nobody listens to what would be typed.
            tasks.cancel_scope.cancel()


def _write_out(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


@click.command()
@click.argument("target")
@click.argument("port", type=PORT)
@click.option("--data", required=True, help="What to send.")
@TIMEOUT
@global_options
@asynchronous
async def send(settings: Settings, target: str, port: int, data: str, timeout: float) -> None:
    """Send one message on a stream and print the answer."""
    async with settings.driver() as driver:
        address = await find(driver, target)
        with anyio.fail_after(timeout):
            async with await driver.dial((address, port), timeout=timeout) as stream:
                await stream.send(data.encode())
                await stream.send_eof()
                response = await _read_all(stream)
    text = response.decode(errors="replace")
    result = {"target": target, "port": port, "sent": data, "response": text}
    settings.output.success(result, lambda console: console.print(text, markup=False))


@click.command()
@click.argument("port", type=PORT)
@click.option("--count", type=click.IntRange(1), default=1, show_default=True)
@TIMEOUT
@global_options
@asynchronous
async def recv(settings: Settings, port: int, count: int, timeout: float) -> None:
    """Take streams on a port and print what each one sends, to its end."""
    messages: list[dict[str, Any]] = []
    async with settings.driver() as driver, await driver.listen(port) as listener:
        with anyio.move_on_after(timeout):
            while len(messages) < count:
                async with await listener.accept() as stream:
                    row: dict[str, Any] = {"seq": len(messages), "port": port}
                    try:
                        octets = await _read_all(stream)
                        row |= {"data": octets.decode(errors="replace"), "bytes": len(octets)}
                    except PilotError as error:
                        row["error"] = str(error)
                messages.append(row)
    if not messages:
        raise TimedOut("nobody sent anything in time", hint="raise --timeout")
    data = {"messages": messages, "timeout": len(messages) < count}

    def render(console: Console) -> None:
        for row in messages:
            console.print(row.get("data", row.get("error", "")), markup=False)

    settings.output.success(data, render)


@click.command()
@click.argument("target")
@click.argument("port", type=PORT)
@click.option("--data", required=True, help="What to send.")
@global_options
@asynchronous
async def dgram(settings: Settings, target: str, port: int, data: str) -> None:
    """Send one datagram."""
    async with settings.driver() as driver:
        address = await find(driver, target)
        async with await driver.datagram() as datagrams:
            await datagrams.send_to(data.encode(), (address, port))
    settings.output.success(
        {"target": target, "port": port, "bytes": len(data.encode()), "confirmed": False}
    )


@click.command()
@click.argument("port", type=PORT)
@click.option(
    "--count", type=click.IntRange(0), default=0, help="End after this many; 0 never does."
)
@click.option("--timeout", type=Duration(), default=None, help="End after this time.")
@global_options
@asynchronous
async def listen(settings: Settings, port: int, count: int, timeout: float | None) -> None:
    """Print datagrams that arrive on a port."""
    messages: list[dict[str, Any]] = []
    output = settings.output
    async with settings.driver() as driver, await driver.datagram(port) as datagrams:
        with anyio.move_on_after(timeout):
            while not count or len(messages) < count:
                datagram = await datagrams.receive()
                row = {
                    "src_addr": str(datagram.source.address),
                    "src_port": datagram.source.port,
                    "data": datagram.data.decode(errors="replace"),
                    "bytes": len(datagram.data),
                }
                if count:
                    messages.append(row)
                else:
                    output.line({"type": "datagram", **row}, f"{datagram.source}  {row['data']}")
    if not count:
        return
    if not messages:
        raise TimedOut("no datagram arrived in time", hint="raise --timeout")
    data = {"messages": messages, "timeout": len(messages) < count}

    def render(console: Console) -> None:
        for row in messages:
            console.print(f"{row['src_addr']}:{row['src_port']}  {row['data']}", markup=False)

    output.success(data, render)


COMMANDS = (ping, bench, connect, send, recv, dgram, listen)
