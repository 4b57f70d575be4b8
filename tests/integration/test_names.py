"""Names on the overlay, with real daemons and both kinds of nameservers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.pilotctl import Pilotctl
from tests.support.relayed import relayed_pair

from pilotstack import sync
from pilotstack.errors import NotFound
from pilotstack.testing import Process

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.testing import Network


@pytest.fixture
def named(network: Network) -> Network:
    """Three agents, of which one serves names to all."""
    network.start("nameserver", "--nameserver")
    network.start("agent-a")
    network.start("agent-b")
    return network


def ask(network: Network, agent: str, *arguments: object) -> dict[str, Any]:
    result = Pilotctl.of(network, agent).run(*arguments)
    answer = json.loads(result.stdout)
    found: dict[str, Any] = answer["data"] if result.returncode == 0 else answer
    return found


def test_a_name_is_registered_and_resolved_from_any_node(named: Network) -> None:
    address = named.nodes["agent-a"].address
    shown = Pilotctl.of(named, "agent-a").table("name-register", "agent-alpha", address)
    assert shown == "agent-alpha is registered\n"
    assert Pilotctl.of(named, "agent-b").table("resolve", "agent-alpha") == f"{address}\n"
    assert ask(named, "agent-b", "resolve", "agent-alpha", "--type", "A") == {
        "name": "agent-alpha",
        "address": address,
    }
    # Others cannot take it, nor give it up, nor register for somebody else.
    taken = ask(named, "agent-b", "name-register", "agent-alpha")
    assert taken["code"] == "already_exists"
    assert ask(named, "agent-b", "name-unregister", "agent-alpha")["code"] == "permission_denied"
    foreign = ask(named, "agent-b", "name-register", "beta", address)
    assert foreign["code"] == "permission_denied"
    hostname = ask(named, "agent-b", "name-register", "agent-a")
    assert hostname["code"] == "already_exists"
    assert ask(named, "agent-a", "name-list")["records"] == [
        {"type": "A", "name": "agent-alpha", "address": address}
    ]
    ask(named, "agent-a", "name-unregister", "agent-alpha")
    assert ask(named, "agent-b", "resolve", "agent-alpha")["code"] == "not_found"


def test_a_name_is_taken_wherever_an_address_is(named: Network) -> None:
    ask(named, "agent-b", "name-register", "the-printer")
    address = named.nodes["agent-b"].address
    assert ask(named, "agent-a", "ping", "the-printer", "--count", "1")["to"] == address
    assert ask(named, "agent-a", "find", "the-printer")["address"] == address
    with sync.Driver(named.nodes["agent-a"].socket) as driver:
        with driver.dial("the-printer:7") as stream:
            stream.sendall(b"hello")
            assert stream.recv(100) == b"hello"
        with pytest.raises(NotFound):
            driver.dial("nobody-at-all:7")
    # Hostnames of the registry are names of the nameserver, too.
    assert ask(named, "agent-a", "resolve", "agent-b")["address"] == address


def test_networks_and_services(named: Network) -> None:
    made = ask(named, "agent-a", "network", "create", "lab")
    lab = made["network_id"]
    for agent in ("agent-b", "nameserver"):
        ask(named, agent, "network", "join", lab)
    ask(named, "agent-a", "name-register", "research-lab", lab, "--type", "N")
    assert ask(named, "agent-b", "resolve", "research-lab", "--type", "N") == {
        "name": "research-lab",
        "network": lab,
    }
    service = ("name-register", "api", "--type", "S", "--network", "research-lab", "--port", 8080)
    ask(named, "agent-b", *service)
    found = ask(named, "agent-a", "resolve", "research-lab", "--type", "S", "--port", 8080)
    assert [(row["name"], row["port"], row["network"]) for row in found["records"]] == [
        ("api", 8080, lab)
    ]
    # Who is not in the network neither finds nor registers anything there.
    named.start("agent-c")
    assert ask(named, "agent-c", "resolve", lab, "--type", "S", "--port", 8080)["records"] == []
    assert ask(named, "agent-c", *service)["code"] == "permission_denied"
    missing = ask(named, "agent-c", "resolve", lab, "--type", "S")
    assert missing["code"] == "invalid_argument"


def test_names_outlive_the_daemon(named: Network) -> None:
    ask(named, "agent-a", "name-register", "alpha")
    named.nodes["nameserver"].process.stop()
    named.start("nameserver", "--nameserver")
    assert ask(named, "agent-b", "resolve", "alpha")["address"] == named.nodes["agent-a"].address


def test_a_file_that_holds_no_names_ends_the_start(network: Network) -> None:
    network.start("nameserver").process.stop()
    path = network.path / "nameserver" / "names.json"
    path.write_text("[]")
    with pytest.raises(Exception, match="holds no names"):
        network.start("nameserver", "--nameserver")
    assert path.read_text() == "[]"


def test_a_nameserver_of_its_own_process(network: Network, tmp_path: Path) -> None:
    node = network.start("agent-a")
    network.start("agent-b", "--names", "agent-a")
    flags = ["--socket", str(node.socket), "--store", str(tmp_path / "n.json"), "--short-replies"]
    server = Process("nameserver", flags, tmp_path / "log")
    try:
        assert server.ready["address"] == node.address
        at = ("--names", "agent-a")
        ask(network, "agent-b", "name-register", "beta", *at)
        address = network.nodes["agent-b"].address
        assert ask(network, "agent-a", "resolve", "beta", *at)["address"] == address
        # The daemon of agent-b was told where names are.
        assert ask(network, "agent-b", "find", "beta")["address"] == address
        assert ask(network, "agent-a", "resolve", "agent-b", *at)["address"] == address
        assert ask(network, "agent-a", "resolve", "no-such", *at)["code"] == "not_found"
        with sync.Driver(node.socket) as driver, driver.dial("agent-a:53") as stream:
            stream.sendall(b"QUERY A beta")
            assert stream.recv(100) == f"OK {address}".encode()
        # It goes on with the next daemon of its node.
        node.process.stop()
        network.start("agent-a")
        while ask(network, "agent-b", "resolve", "beta", *at).get("address") != address:
            pass
    finally:
        server.stop()
    assert "beta" in (tmp_path / "n.json").read_text()


def test_one_peer_cannot_keep_others_from_asking(named: Network) -> None:
    with ExitStack() as stack:
        driver = stack.enter_context(sync.Driver(named.nodes["agent-a"].socket))
        # Streams that ask nothing, and some that send what is no request.
        streams = [stack.enter_context(driver.dial("nameserver:53")) for _ in range(20)]
        for stream in streams[:3]:
            stream.sendall(b"\xff\x00" * 4000)
        is_reset = 0
        for stream in streams[16:]:
            try:
                is_reset += stream.recv(100) == b"never"
            except ConnectionResetError:
                is_reset += 1
        assert is_reset == 4
        found = ask(named, "agent-b", "resolve", "agent-b")
        assert found["address"] == named.nodes["agent-b"].address
    dropped = ask(named, "nameserver", "info")["dropped"]
    assert dropped["service_busy"] >= 4
    assert dropped["service_names_malformed"] >= 1


def test_without_a_nameserver_there_is_an_error(shared_network: Network) -> None:
    told = ask(shared_network, "agent-a", "resolve", "x", "--names", "agent-b", "--timeout", "5s")
    assert told["code"] == "connection_failed"
    assert told["message"].startswith("no nameserver serves 0:0000.0000.0002:53")
    # Where it is by convention, there is nobody.
    told = ask(shared_network, "agent-a", "resolve", "x")
    assert told["message"].startswith("the nameserver 0:0000.0000.0003:53 cannot be reached")


def test_no_observer_reads_names(network: Network, tmp_path: Path) -> None:
    capture = tmp_path / "udp"
    with relayed_pair(network, capture=capture) as (a, b, _):
        flags = ["--socket", str(b.socket)]
        server = Process("nameserver", flags, tmp_path / "log")
        try:
            pilotctl = Pilotctl.of(network, a.name)
            name = "agent-with-a-long-name"
            assert '"ok"' in pilotctl("name-register", name, "--names", b.name)
            assert a.address in pilotctl("resolve", name, "--names", b.name)
        finally:
            server.stop()
    seen = capture.read_bytes()
    assert len(seen) > 1000
    for text in (name.encode(), b"REGISTER", b"QUERY", a.address.encode()):
        assert text not in seen
