"""State of an earlier release is taken over: addresses, names, trust and memberships."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.programs import BIN, environment

from pilotstack.testing import Network

if TYPE_CHECKING:
    from pilotstack.testing import Node

#: As each release left it: a registry's store, and the folders of three private agents. a and b
#: trust each other, a and c are in the network "ops", of which a is the owner.
RELEASES = sorted((Path(__file__).parents[1] / "fixtures").glob("state-*"))


def ask(node: Node, *arguments: str) -> dict[str, Any]:
    """What a command of this release says."""
    command = [BIN / "pilotctl", "--json", "--socket", node.socket, *arguments]
    result = subprocess.run(
        list(map(str, command)), capture_output=True, check=False, env=environment(), timeout=60
    )
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_nothing_is_lost_by_an_upgrade(release: Path) -> None:
    network = Network()
    shutil.copytree(release, network.path, dirs_exist_ok=True)
    # A repository keeps no modes.
    for path in network.path.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    keys = {
        name: json.loads((network.path / name / "identity.json").read_text())["public_key"]
        for name in ("agent-a", "agent-b", "agent-c")
    }
    with network:
        nodes = {name: network.start(name, public=False) for name in keys}
        for number, (name, node) in enumerate(nodes.items(), 1):
            info = ask(node, "info")["data"]
            assert (info["node_id"], info["hostname"], info["public_key"]) == (
                *(number, name, keys[name]),
            )
        a, b, c = nodes.values()
        for one, other in ((a, b), (b, a)):
            (row,) = ask(one, "trust")["data"]["trusted"]
            assert row["node_id"] == other.node_id
        (joined,) = ask(c, "info")["data"]["networks"]
        members = ask(a, "network", "members", str(joined["network_id"]))["data"]["nodes"]
        assert {row["node_id"]: row["role"] for row in members} == {1: "owner", 3: "member"}
        # Trust and membership let in; nothing lets b reach c.
        assert ask(a, "ping", "agent-b", "--count", "1")["status"] == "ok"
        assert ask(a, "ping", "agent-c", "--count", "1")["status"] == "ok"
        refused = ask(b, "ping", "agent-c", "--count", "1", "--timeout", "5s")
        assert refused["status"] == "error"
        # The token of the network is still the one that it was made with.
        wrong = ask(b, "network", "join", str(joined["network_id"]), "--token", "wrong")
        assert wrong["code"] == "permission_denied"
        right = ask(b, "network", "join", str(joined["network_id"]), "--token", "sesame")
        assert right["status"] == "ok"


def test_every_release_has_left_its_state() -> None:
    assert RELEASES
