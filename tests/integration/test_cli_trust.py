"""The trust commands of ``pilotctl``: members that programs rely on, and what people see."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pilotstack import sync
from pilotstack.cli.output import exit_status
from pilotstack.errors import NotFound

if TYPE_CHECKING:
    from pilotstack.testing import Network, Node

CTL = [sys.executable, "-c", "from pilotstack.cli.main import run; run()"]


def run(node: Node, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CTL, "--socket", str(node.socket), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def ask(node: Node, *arguments: object) -> dict[str, Any]:
    result = run(node, "--json", *arguments)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer.keys() == {"data", "status"}
    data: dict[str, Any] = answer["data"]
    return data


def refused(node: Node, *arguments: object) -> dict[str, Any]:
    result = run(node, "--json", *arguments)
    answer: dict[str, Any] = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (exit_status(answer["code"]), "")
    assert result.returncode != 0
    return answer


@pytest.fixture
def nodes(network: Network) -> tuple[Node, Node]:
    return network.start("agent-a", "--private"), network.start("agent-b", "--private")


def wait_for_request(node: Node, peer: int) -> None:
    with sync.Driver(node.socket) as driver:
        while peer not in {row.node_id for row in driver.pending()}:
            pass


def test_pilotctl_brings_about_trust_and_ends_it(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    assert ask(a, "trust") == {"trusted": [], "total": 0}
    assert ask(a, "pending") == {"pending": []}

    sent = ask(a, "handshake", "agent-b", "want", "to [red]collaborate[/]")
    assert sent == {"node_id": b.node_id, "status": "sent"}
    wait_for_request(b, a.node_id)
    (row,) = ask(b, "pending")["pending"]
    assert row.keys() == {"node_id", "public_key", "justification", "received_at"}
    assert (row["node_id"], row["justification"]) == (a.node_id, "want to [red]collaborate[/]")
    assert len(base64.b64decode(row["public_key"])) == 32
    shown = run(b, "--no-json", "pending").stdout
    assert "want to [red]collaborate[/]" in shown
    assert "pilotctl approve" in shown

    assert ask(b, "approve", a.node_id) == {"node_id": a.node_id, "status": "approved"}
    with sync.Driver(a.socket) as driver:
        assert driver.wait_for_trust("agent-b")
    trusted = ask(a, "trust")
    (row,) = trusted["trusted"]
    assert row.keys() == {"node_id", "public_key", "approved_at", "mutual", "network"}
    assert (row["node_id"], row["mutual"], row["network"]) == (b.node_id, True, 0)
    assert (trusted["total"], ask(b, "trust", "--search", "nobody")["total"]) == (1, 0)
    shown = run(a, "--no-json", "trust").stdout
    assert all(text in shown for text in ("mutual", "yes", "UTC"))

    ping = ask(a, "ping", "agent-b", "--count", 1)
    assert ping["results"][0]["rtt_ms"] > 0
    assert ask(b, "untrust", "agent-a") == {"node_id": a.node_id}
    assert ask(b, "trust")["trusted"] == []
    gone = refused(b, "untrust", a.node_id)
    assert gone["code"] == "not_found"
    assert gone["message"] == f"handshake revoke: node {a.node_id} was not trusted"


def test_pilotctl_refuses_a_request_for_trust(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    ask(a, "handshake", b.node_id)
    wait_for_request(b, a.node_id)
    rejected = ask(b, "reject", a.node_id, "not", "now")
    assert rejected == {"node_id": a.node_id, "status": "rejected"}
    for command in ("approve", "reject"):
        answer = refused(b, command, a.node_id)
        assert (answer["code"], "pilotctl pending" in answer["hint"]) == ("not_found", True)
    assert refused(a, "handshake", "nobody")["code"] == "not_found"
    assert refused(a, "handshake", a.node_id)["code"] == "invalid_argument"


def test_the_blocking_driver_brings_about_trust(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    with sync.Driver(a.socket) as asking, sync.Driver(b.socket) as asked:
        asking.handshake(b.address, "hello")
        wait_for_request(b, a.node_id)
        asked.approve("agent-a")
        assert asking.wait_for_trust(b.node_id)
        assert [row.node_id for row in asked.trusted()] == [a.node_id]
        asking.untrust("agent-b")
        assert asking.trusted() == ()
        with pytest.raises(NotFound):
            asked.reject(a.node_id, "late")
