"""``pilotctl`` against running daemons: the members that programs rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pilotstack import sync
from pilotstack.errors import ConnectionRefused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pilotstack.testing import Network

CTL = [sys.executable, "-c", "from pilotstack.cli.main import run; run()"]


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CTL, *map(str, arguments)], input=stdin, capture_output=True, check=False, timeout=50
    )


def ask(network: Network, *arguments: object) -> dict[str, Any]:
    socket = network.nodes["agent-a"].socket
    result = run("--socket", socket, "--json", *arguments)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["status"] == "ok"
    data: dict[str, Any] = answer["data"]
    return data


#: Members that existing programs read.
CONNECTION = {
    *("id", "local_port", "remote_addr", "remote_port", "state"),
    *("cong_win", "ssthresh", "in_flight", "srtt_ms", "rttvar_ms", "in_recovery"),
    *("bytes_sent", "bytes_recv", "segs_sent", "segs_recv", "retransmits", "fast_retx"),
    *("dup_acks", "sack_sent", "sack_recv", "unacked", "peer_recv_win", "recv_win"),
    *("ooo_buf", "max_segment"),
}
INFO = {
    *("node_id", "address", "hostname", "uptime_secs", "connections", "ports", "peers"),
    *("encrypted_peers", "authenticated_peers", "encrypt", "identity", "public_key"),
    *("owner", "email", "bytes_sent", "bytes_recv", "pkts_sent", "pkts_recv"),
    *("peer_list", "conn_list", "endpoint", "features", "version"),
}


def test_ping_measures_round_trips(shared_network: Network) -> None:
    b = shared_network.nodes["agent-b"]
    ping = ask(shared_network, "ping", "agent-b", "--count", 2, "--interval", "1ms")
    assert (ping["target"], ping["to"], ping["timeout"]) == ("agent-b", b.address, False)
    assert [(row["seq"], row["bytes"]) for row in ping["results"]] == [(0, 6), (1, 6)]
    assert all(row["rtt_ms"] > 0 for row in ping["results"])


def test_bench_measures_throughput(shared_network: Network) -> None:
    bench = ask(shared_network, "bench", "agent-b", 100)
    assert bench["sent_bytes"] == bench["recv_bytes"] == 100 << 20
    assert {"send_duration_ms", "total_duration_ms", "send_mbps", "total_mbps"} <= bench.keys()


def test_the_state_of_the_daemon_has_the_members_that_programs_read(
    shared_network: Network,
) -> None:
    b = shared_network.nodes["agent-b"]
    with sync.dial("agent-b:7", socket_path=shared_network.nodes["agent-a"].socket):
        peers = ask(shared_network, "peers")
        row = next(row for row in peers["peers"] if row["node_id"] == b.node_id)
        assert (row["encrypted"], row["authenticated"], row["relay"]) == (True, True, False)
        assert peers["total"] == len(peers["peers"])
        connections = ask(shared_network, "connections")
        assert connections["total"] == len(connections["connections"]) > 0
        assert connections["connections"][0].keys() >= CONNECTION
        assert ask(shared_network, "info").keys() >= INFO


def test_names_and_visibility_are_set_and_looked_up(shared_network: Network) -> None:
    b = shared_network.nodes["agent-b"]
    assert ask(shared_network, "find", "agent-b") == {
        "hostname": "agent-b",
        "node_id": b.node_id,
        "address": b.address,
        "public": True,
    }
    assert ask(shared_network, "set-hostname", "agent-z")["hostname"] == "agent-z"
    assert ask(shared_network, "clear-hostname")["hostname"] == ""
    assert ask(shared_network, "set-hostname", "agent-a")["hostname"] == "agent-a"
    assert ask(shared_network, "set-private")["visibility"] == "private"
    assert ask(shared_network, "set-public")["visibility"] == "public"
    found = ask(shared_network, "lookup", b.node_id, "--registry", shared_network.registry)
    assert (found["hostname"], found["public"]) == ("agent-b", True)


def test_send_connect_and_dgram_carry_data_and_pipes_all_of_it(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name] for name in ("agent-a", "agent-b"))
    assert ask(shared_network, "send", "agent-b", 7, "--data", "hello")["response"] == "hello"
    assert ask(shared_network, "connect", "agent-b", 7, "--message", "hi")["response"] == "hi"
    assert ask(shared_network, "dgram", "agent-b", 4000, "--data", "hello")["bytes"] == 5
    data = bytes(range(256)) * 4000
    piped = run("--socket", a.socket, "connect", b.address, 7, stdin=data)
    assert (piped.returncode, piped.stdout == data) == (0, True)


def test_recv_and_listen_print_what_arrives(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name] for name in ("agent-a", "agent-b"))
    ends = {}
    for command, port in (("recv", 7301), ("listen", 7302)):
        arguments = ("--socket", b.socket, "--json", command, port, "--count", 1)
        ends[command] = subprocess.Popen([*CTL, *map(str, arguments)], stdout=subprocess.PIPE)
    try:
        with sync.Driver(a.socket) as driver, driver.datagram() as datagrams:
            stream = until(lambda: driver.dial("agent-b:7301"))
            with stream:
                stream.sendall(b"hello")
            # A datagram to a port that is not bound yet is lost, as datagrams are.
            while ends["listen"].poll() is None:
                datagrams.send_to(b"ping", "agent-b:7302")
        received = json.loads(ends["recv"].communicate(timeout=30)[0])["data"]
        listened = json.loads(ends["listen"].communicate(timeout=30)[0])["data"]
    finally:
        for end in ends.values():
            end.kill()
            end.wait()
            assert end.stdout is not None
            end.stdout.close()
    assert received["messages"] == [{"seq": 0, "port": 7301, "data": "hello", "bytes": 5}]
    assert listened["messages"][0]["data"] == "ping"
    assert listened["messages"][0]["src_addr"] == a.address


def until(dial: Callable[[], sync.Stream]) -> sync.Stream:
    """Dials until somebody listens."""
    while True:
        with suppress(ConnectionRefused):
            return dial()


def test_failures_have_codes_and_statuses_of_their_own(
    shared_network: Network, tmp_path: Path
) -> None:
    socket = shared_network.nodes["agent-a"].socket
    cases = {
        ("not_running", 8): ("--socket", tmp_path / "none", "info"),
        ("not_found", 3): ("--socket", socket, "find", "nobody"),
        ("connection_failed", 6): ("--socket", socket, "send", "agent-b", 4999, "--data", "x"),
        ("invalid_argument", 2): ("--socket", socket, "send", "agent-b", "--data", "x"),
    }
    for (code, status), arguments in cases.items():
        result = run("--json", *arguments)
        assert (result.returncode, result.stderr) == (status, b"")
        report = json.loads(result.stdout)
        assert (report["status"], report["code"]) == ("error", code)
        assert report["message"]
    assert run("-socket", socket, "info").returncode == 0


@pytest.mark.parametrize("form", ["--json", "--no-json"])
def test_output_that_cannot_be_written_is_a_failure_in_words(
    form: str, shared_network: Network
) -> None:
    socket = shared_network.nodes["agent-a"].socket
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [*CTL, "--socket", str(socket), form, "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=50,
        )
    assert result.returncode == 1
    assert result.stderr.decode().splitlines() == [
        "error: cannot write the output: No space left on device"
    ]


@pytest.mark.parametrize("form", ["--json", "--no-json"])
def test_a_closed_reader_ends_a_command_quietly(form: str, shared_network: Network) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    socket = shared_network.nodes["agent-a"].socket
    with os.fdopen(writing, "wb") as pipe:
        command = [*CTL, "--socket", str(socket), form, "info"]
        result = subprocess.run(
            command, stdout=pipe, stderr=subprocess.PIPE, check=False, timeout=50
        )
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.parametrize("form", ["--json", "--no-json"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_no_failure(
    closed: str, form: str, shared_network: Network, tmp_path: Path
) -> None:
    socket = shared_network.nodes["agent-a"].socket
    for path, status in ((socket, 0), (tmp_path / "none", 8)):
        command = [*CTL, "--socket", str(path), form, "info"]
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
        result = subprocess.run(shell, capture_output=True, check=False, timeout=50)
        assert result.returncode == status
        assert b"Traceback" not in result.stderr


def test_usage_errors_are_json_where_json_was_asked(shared_network: Network) -> None:
    socket = shared_network.nodes["agent-a"].socket
    for arguments in (
        ("no-such-command",),
        ("ping",),
        ("ping", "agent-b", "--count", "x"),
        ("network",),
        (),
    ):
        result = run("--socket", socket, "--json", *arguments)
        report = json.loads(result.stdout)
        assert (result.returncode, report["code"]) == (2, "invalid_argument"), arguments
        assert result.stderr == b""
        assert "--help" in report["hint"]


def test_connect_ends_when_the_peer_closes_though_stdin_stays_open(
    shared_network: Network,
) -> None:
    a, b = (shared_network.nodes[name].socket for name in ("agent-a", "agent-b"))
    with sync.Driver(b) as server, server.listen(1411) as listener:
        command = [*CTL, "--socket", str(a), "connect", "agent-b:1411"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            with listener.accept() as stream:
                stream.send(b"good-bye")
            assert process.stdout is not None
            assert process.stdout.read() == b"good-bye"
            assert process.wait(20) == 0


def test_connect_ends_with_ctrl_c(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name].socket for name in ("agent-a", "agent-b"))
    with sync.Driver(b) as server, server.listen(1412) as listener:
        command = [*CTL, "--socket", str(a), "--json", "connect", "agent-b", "1412"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            with listener.accept() as stream:
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130
                stream.close()
            assert process.stdout is not None
            assert json.loads(process.stdout.read())["code"] == "interrupted"


def test_unknown_connections_and_nodes_are_errors(shared_network: Network) -> None:
    socket = shared_network.nodes["agent-a"].socket
    result = run("--socket", socket, "--json", "disconnect", 4_000_000_000)
    assert (result.returncode, json.loads(result.stdout)["code"]) == (3, "not_found")
    result = run("--socket", socket, "--json", "dgram", 99, 7, "--data", "x", "--timeout", "1s")
    assert (result.returncode, json.loads(result.stdout)["code"]) == (6, "connection_failed")
    sent = ask(shared_network, "dgram", "agent-b:7", "--data", "x")
    assert sent == {"target": "agent-b", "port": 7, "bytes": 1, "confirmed": False}


def test_too_few_messages_are_a_failure_with_partial_output(
    shared_network: Network,
) -> None:
    socket = shared_network.nodes["agent-a"].socket
    for command in ("recv", "listen"):
        result = run(
            "--socket", socket, "--json", command, 1413, "--count", 1, "--timeout", "100ms"
        )
        report = json.loads(result.stdout)
        assert (result.returncode, report["code"]) == (7, "timeout")
        assert report["data"] == {"messages": [], "timeout": True}
