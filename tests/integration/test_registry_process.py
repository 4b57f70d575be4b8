"""The registry as a process: store lock, blocked log readers, reset connections."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.registries import Raw, Registries, host_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[Registries]:
    with Registries(tmp_path) as running:
        yield running


def command(kind: str, *flags: str) -> list[str]:
    code = f"from pilotstack.registry.main import run_{kind}; run_{kind}()"
    return [sys.executable, "-c", code, "--registry-addr", "127.0.0.1:0", *flags]


def refusal(kind: str, *flags: str) -> dict[str, Any]:
    """How a start ends."""
    done = subprocess.run(command(kind, *flags), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    report: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return report


@pytest.mark.parametrize("way", ["registry", "rendezvous", "standby", "link", "symlink"])
def test_a_second_program_on_a_store_is_refused(
    registries: Registries, tmp_path: Path, way: str
) -> None:
    address = registries.start("first")
    store = tmp_path / "first.json"
    with Raw(address) as raw:
        assert raw.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"
    # The snapshot exists after a stop.
    registries.processes["first"].stop()
    registries.start("first")
    kind, flags = "registry", []
    if way == "rendezvous":
        kind, flags = "rendezvous", ["--beacon-addr", "127.0.0.1:0"]
    elif way == "standby":
        flags = ["--standby", address, "--replication-token", "secret"]
    elif way == "link":
        (tmp_path / "other").mkdir()
        os.link(store, tmp_path / "other" / "store.json")
        store = tmp_path / "other" / "store.json"
    elif way == "symlink":
        (tmp_path / "store.json").symlink_to(store)
        store = tmp_path / "store.json"
    report = refusal(kind, "--store", str(store), *flags)
    assert report["code"] == "already_exists"
    assert report["hint"]
    with Raw(address) as raw:
        assert raw.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"


@contextmanager
def sink(kind: str) -> Iterator[Any]:
    """Something that takes nothing."""
    if kind == "full disk":
        with open("/dev/full", "w") as full:
            yield full
        return
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@pytest.mark.parametrize("kind", ["full disk", "no reader", "closed"])
@pytest.mark.parametrize("output", ["stdout", "stderr"])
def test_a_log_and_a_ready_line_that_nobody_takes_are_no_failure(kind: str, output: str) -> None:
    argv = command("registry", "--log-level", "debug")
    other = "stderr" if output == "stdout" else "stdout"
    if kind == "closed":
        number = 1 if output == "stdout" else 2
        argv = ["sh", "-c", f'exec "$@" {number}>&-', "sh", *argv]
    # It serves on a port that is known, whatever becomes of the line that tells it.
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    argv[argv.index("127.0.0.1:0")] = f"127.0.0.1:{port}"
    with (
        sink(kind) as nowhere,
        subprocess.Popen(argv, **{output: nowhere, other: subprocess.PIPE}, text=True) as process,
    ):
        try:
            stream = process.stdout if output == "stderr" else process.stderr
            assert stream is not None
            while "serving" not in (line := stream.readline()) and '"ready"' not in line:
                assert line, "it ended"
            for _ in range(3):
                with Raw(f"127.0.0.1:{port}") as raw:
                    assert raw.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"
                    raw.socket.sendall(b"\xff\xff\xff\xff")
                    assert raw.is_closed()
            assert process.poll() is None
        finally:
            process.terminate()
        assert process.wait(30) == 0


def reset(address: str, count: int) -> None:
    """Connections that are reset as soon as they are there, or before."""
    where = host_port(address)
    for _ in range(count):
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.connect_ex(where)


def test_connections_that_are_reset_end_neither_port(registries: Registries) -> None:
    address = registries.start("first", "--http", "127.0.0.1:0")
    http = registries.processes["first"].ready["http"]
    for target in (address, http):
        for _ in range(20):
            reset(target, 100)
    with Raw(address) as raw:
        assert raw.ask({"type": "beacon_list"})["type"] == "beacon_list_ok"
    with socket.create_connection(host_port(http), timeout=30) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert registries.processes["first"].stop() == 0
