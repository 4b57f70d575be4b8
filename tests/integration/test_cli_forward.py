"""``pilotctl forward``, ``expose``, ``connect`` and ``accept`` with real processes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pilotstack import sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pilotstack.testing import Network

CTL = [sys.executable, "-c", "from pilotstack.cli.main import run; run()"]


class Running:
    """A command that goes on."""

    def __init__(self, node: Path, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [*CTL, "--socket", str(node), "--json", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        event: dict[str, Any] = json.loads(self.process.stdout.readline())
        return event

    def say(self, text: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def finish(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def hear(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def running(node: Path, *arguments: object) -> Iterator[Running]:
    command = Running(node, *arguments)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.send_signal(signal.SIGINT)
        command.process.wait(30)
        for pipe in (command.process.stdin, command.process.stdout):
            assert pipe is not None
            pipe.close()


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """Sends everything, then FIN, then reads to the end."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(1 << 16):
            received += chunk
    return received


def port_of(event: dict[str, Any]) -> tuple[str, int]:
    host, _, port = event["local"].rpartition(":")
    return host, int(port)


def serve_once(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        while chunk := connection.recv(1 << 16):
            connection.sendall(chunk.upper())


def test_a_local_port_and_an_agents_port_lead_to_a_local_service(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name] for name in ("agent-a", "agent-b"))
    with socket.create_server(("127.0.0.1", 0)) as service:
        serving = threading.Thread(target=serve_once, args=(service,))
        serving.start()
        at = f"127.0.0.1:{service.getsockname()[1]}"
        with (
            running(b.socket, "expose", 1601, at) as exposed,
            running(a.socket, "forward", "0", "agent-b:1601") as forwarded,
        ):
            assert exposed.event() == {
                "type": "listening",
                "local": f"{b.address}:1601",
                "target": at,
            }
            listening = forwarded.event()
            assert (listening["type"], listening["target"]) == ("listening", "agent-b:1601")
            data = b"hello " * 50_000
            assert exchange(port_of(listening), data) == data.upper()
            for command in (exposed, forwarded):
                opened, closed = command.event(), command.event()
                assert (opened["type"], opened["id"]) == ("opened", 1)
                assert {name: closed[name] for name in ("type", "id", "reason")} == {
                    "type": "closed",
                    "id": 1,
                    "reason": None,
                }
                assert {closed["sent"], closed["received"]} == {len(data)}
        serving.join()


def test_datagrams_are_forwarded_too(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name] for name in ("agent-a", "agent-b"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{service.getsockname()[1]}"
        with (
            running(b.socket, "expose", 1602, at, "--udp") as exposed,
            running(a.socket, "forward", "0", "agent-b:1602", "--udp") as forwarded,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            exposed.event()
            client.connect(port_of(forwarded.event()))
            service.settimeout(1)
            while True:
                client.send(b"ping")
                try:
                    data, source = service.recvfrom(100)
                    break
                except TimeoutError:
                    continue
            assert data == b"ping"
            service.sendto(b"pong", source)
            client.settimeout(30)
            assert client.recv(100) == b"pong"


def test_a_path_can_stand_on_either_side(shared_network: Network, tmp_path: Path) -> None:
    a, b = (shared_network.nodes[name] for name in ("agent-a", "agent-b"))
    served, entry = tmp_path / "served", tmp_path / "entry"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(served))
        service.listen()
        serving = threading.Thread(target=serve_once, args=(service,))
        serving.start()
        with (
            running(b.socket, "expose", 1603, served) as exposed,
            running(a.socket, "forward", entry, "agent-b:1603") as forwarded,
            socket.socket(socket.AF_UNIX) as client,
        ):
            assert exposed.event()["target"] == str(served)
            assert forwarded.event()["local"] == str(entry)
            client.connect(str(entry))
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"HELLO"
        serving.join()


def test_what_cannot_be_forwarded_is_an_error(shared_network: Network) -> None:
    node = shared_network.nodes["agent-a"].socket
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, code in (
            (("forward", port, "agent-b:80"), "already_exists"),
            (("forward", "0", "nobody:80"), "not_found"),
            (("forward", "0", "agent-b"), "invalid_argument"),
            (("forward", "/tmp/x", "agent-b:80", "--udp"), "invalid_argument"),
            (("expose", 7, 8080), "already_exists"),
            (("expose", 1604, "nowhere.invalid:x"), "invalid_argument"),
        ):
            command = [*CTL, "--socket", str(node), "--json", *map(str, arguments)]
            result = subprocess.run(command, capture_output=True, check=False, timeout=50)
            assert json.loads(result.stdout.splitlines()[-1])["code"] == code, arguments


def test_nobody_came_says_how_to_come(shared_network: Network) -> None:
    node = shared_network.nodes["agent-b"].socket
    command = [*CTL, "--socket", str(node), "--json", "accept", "1605", "--timeout", "100ms"]
    result = subprocess.run(command, capture_output=True, check=False, timeout=50)
    report = json.loads(result.stdout)
    assert (result.returncode, report["code"]) == (7, "timeout")
    assert report["message"] == "nobody connected to port 1605 within 0.1s"
    assert report["hint"] == "at the other node: pilotctl connect agent-b 1605"


def test_two_people_talk_over_standard_input_and_output(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name] for name in ("agent-a", "agent-b"))
    with sync.Driver(b.socket) as driver:
        before = driver.info().ports
    with sync.Driver(b.socket) as driver, running(b.socket, "accept") as host:
        while driver.info().ports == before and host.process.poll() is None:
            pass
        with running(a.socket, "connect", "agent-b") as caller:
            host.say(b"good morning\n")
            assert caller.hear() == b"good morning\n"
            caller.say(b"and to you\n")
            caller.finish()
            assert host.hear() == b"and to you\n"
            # The caller has finished; the host has not.
            host.say(b"bye\n")
            host.finish()
            assert (caller.hear(), caller.hear()) == (b"bye\n", b"")
            assert (caller.process.wait(30), host.process.wait(30)) == (0, 0)
