"""What the gateway costs: curl through it beside a stream of the SDK, in one run.

``python benches/gateway.py`` as root (``--quick`` moves less data, ``--json FILE`` writes the
figures). Two daemons over loopback; at one of them an agent serves HTTP with the SDK, at the other
the gateway runs. Every take moves the same bytes from the same agent: to a reader of the SDK, and
to curl through a local IP, through SOCKS, through ``CONNECT`` and through the proxy's HTTP. Takes
alternate, since machines of this kind are shared, and medians are compared. Then 10,000 requests on
10,000 connections, after which descriptors are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

import pilotstack
from pilotstack.testing import Network, Process
from pilotstack.types import parse_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack import Stream

MB = 1_000_000
_CHUNK = bytes(1 << 18)
_STATUS = b'{"status":"ok","protocol":"pilot","port":80}'


async def agent(params: dict[str, Any]) -> None:
    """Serves ``/big`` with so many bytes, and anything else with a short answer."""

    async def handle(stream: Stream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            size = params["bytes"] if head.startswith(b"GET /big") else len(_STATUS)
            text = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
            await stream.send(text.encode())
            if size == len(_STATUS):
                await stream.send(_STATUS)
                return
            while size:
                piece = _CHUNK[:size]
                await stream.send(piece)
                size -= len(piece)

    async with pilotstack.Driver(params["socket"]) as driver, await driver.listen(80) as listener:
        print(json.dumps({"ready": True}), flush=True)
        await listener.serve(handle)


async def reader(params: dict[str, Any]) -> None:
    """Reads ``/big`` from a stream, and reports bytes per second."""
    total = 0
    async with (
        pilotstack.Driver(params["socket"]) as driver,
        await driver.dial((parse_host(params["address"]), 80)) as stream,
    ):
        began = time.perf_counter()
        await stream.send(b"GET /big HTTP/1.1\r\n\r\n")
        try:
            while True:
                total += len(await stream.receive())
        except anyio.EndOfStream:
            pass
        seconds = time.perf_counter() - began
    print(json.dumps({"mb_per_s": total / seconds / MB}), flush=True)


def worker(role: str, **params: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--role", role, "--params", json.dumps(params)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def read_with_sdk(socket: Path, address: str) -> float:
    process = worker("reader", socket=str(socket), address=address)
    rate: float = line_of(process)["mb_per_s"]
    process.wait()
    return rate


def read_with_curl(size: int, url: str, *arguments: str) -> float:
    form = "%{size_download} %{time_total} %{time_starttransfer}"
    command = ["curl", "-sS", "-o", "/dev/null", "-w", form, *arguments, url]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    got, seconds, _ = map(float, result.stdout.split())
    assert got == size, (got, size)
    return got / seconds / MB


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def many_requests(url: str, count: int, *arguments: str) -> float:
    """Requests per second, each on a connection of its own."""
    began = time.perf_counter()
    command = ["curl", "-sS", "-H", "Connection: close", *arguments, f"{url}?[1-{count}]"]
    result = subprocess.run(command, check=True, capture_output=True)
    answers = result.stdout.count(_STATUS)
    assert answers == count, f"{answers} of {count} requests were answered"
    return count / (time.perf_counter() - began)


def measure(size: int, takes: int, requests: int) -> dict[str, Any]:
    with Network() as network:
        a, b = network.start("agent-a"), network.start("agent-b")
        serving = worker("agent", socket=str(b.socket), bytes=size)
        line_of(serving)
        flags = ["run", b.address, "--socket", str(a.socket), "--proxy", "127.0.0.1:0"]
        flags += ["--control", str(network.path / "gateway.sock"), "--ports", "80", "--json"]
        flags += ["--state", str(network.path / "gateway.json")]
        if os.geteuid():
            flags.append("--unprivileged")
        gateway = Process("gateway", flags, network.path / "gateway.log")
        try:
            return compare(network, gateway, size, takes, requests)
        finally:
            gateway.stop()
            serving.kill()
            serving.wait()


def compare(
    network: Network, gateway: Process, size: int, takes: int, requests: int
) -> dict[str, Any]:
    a, b = network.nodes["agent-a"], network.nodes["agent-b"]
    row, proxy = gateway.ready["mappings"][0], gateway.ready["proxy"]
    at = f"http://{row['local_ip']}:{row['ports']['80']}"
    ways: dict[str, Callable[[], float]] = {
        "stream of the SDK": lambda: read_with_sdk(a.socket, b.address),
        "curl, local IP": lambda: read_with_curl(size, f"{at}/big"),
        "curl, SOCKS 5": lambda: read_with_curl(
            size, "http://agent-b/big", "--socks5-hostname", proxy
        ),
        "curl, CONNECT": lambda: read_with_curl(size, "http://agent-b/big", "-p", "-x", proxy),
        "curl, HTTP proxy": lambda: read_with_curl(size, "http://agent-b/big", "-x", proxy),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    burnt: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(takes):
        for name, way in ways.items():
            before = cpu(gateway.pid)
            rates[name].append(way())
            burnt[name].append((cpu(gateway.pid) - before) / (size / 1e9))
    sdk = statistics.median(rates["stream of the SDK"])
    results: dict[str, Any] = {
        name: {
            "mb_per_s": statistics.median(each),
            "ratio": statistics.median(each) / sdk,
            "gateway_cpu_s_per_gb": statistics.median(burnt[name]),
        }
        for name, each in rates.items()
    }
    many_requests(f"{at}/status", 50)
    pids = {"gateway": gateway.pid, "daemon a": a.pid, "daemon b": b.pid}
    before_all = {name: descriptors(pid) for name, pid in pids.items()}
    results["requests per second, local IP"] = many_requests(f"{at}/status", requests)
    results["requests per second, SOCKS 5"] = many_requests(
        "http://agent-b/status", requests // 10, "--socks5-hostname", proxy
    )
    results["requests per second, HTTP proxy"] = many_requests(
        "http://agent-b/status", requests // 10, "-x", proxy
    )
    time.sleep(1)
    results["descriptors before and after"] = {
        name: [before_all[name], descriptors(pid)] for name, pid in pids.items()
    }
    return results


def show(results: dict[str, Any]) -> None:
    for name, values in results.items():
        if isinstance(values, float):
            print(f"{name:34} {values:8,.0f}")
        elif "ratio" in values:
            print(
                f"{name:34} {values['mb_per_s']:8,.0f} MB/s  {values['ratio']:4.0%} of the SDK, "
                f"gateway {values['gateway_cpu_s_per_gb']:.2f} CPU s/GB"
            )
        else:
            print(f"{name:34} {values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="move less data")
    parser.add_argument("--role", choices=("agent", "reader"), help=argparse.SUPPRESS)
    parser.add_argument("--params", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role = {"agent": agent, "reader": reader}[options.role]
        anyio.run(role, options.params, backend_options={"use_uvloop": True})
        return
    quick = options.quick
    results = measure(100 * MB if quick else 1000 * MB, 3, 1000 if quick else 10_000)
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
