"""Our commands at a scripted daemon of the second generation, beside a real registry: what the
daemon has no verb for goes to the registry, signed by the node's key."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from tests.support.fake_daemon import FakeDaemon
from tests.support.pilotctl import Pilotctl

from pilotstack import sync
from pilotstack.ipc import codes
from pilotstack.ipc.frames import frame
from pilotstack.ipc.layout import U16

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.testing import Network


class OldDaemon(FakeDaemon):
    """Tells who the node is, and knows of networks only what existing daemons do."""

    info = b"{}"

    def _answer(self, command: int, payload: bytes) -> bytes:
        if command == codes.INFO:
            return frame(codes.INFO + 1, self.info)
        text = f"unknown command: 0x{command:02X}"
        if command == codes.NETWORK:
            text = f"network: unknown sub-command 0x{payload[0]:02X}"
        return frame(codes.ERROR, U16.pack(1), text.encode())


def test_networks_registration_and_recovery_go_to_the_registry(
    network: Network, tmp_path: Path
) -> None:
    node = network.start("agent-a")
    with sync.Driver(node.socket) as driver:
        info = driver.call(codes.INFO)
    home = tmp_path / "home" / ".pilot"
    home.mkdir(parents=True)
    shutil.copy(network.path / "agent-a" / "identity.json", home / "identity.json")
    with OldDaemon(tmp_path / "s") as daemon:
        daemon.info = json.dumps(info).encode()
        environment = {
            "PILOT_SOCKET": str(daemon.path),
            "PILOT_REGISTRY": network.registry,
            "PILOT_HOME": str(home.parent),
        }
        run = Pilotctl(environment)

        def ask(*arguments: object) -> dict[str, Any]:
            answer: dict[str, Any] = json.loads(run("--json", *arguments))
            assert answer["status"] == "ok"
            data: dict[str, Any] = answer["data"]
            return data

        lab = ask("network", "create", "lab")["network_id"]
        assert ask("network", "rename", lab, "team")["name"] == "team"
        assert ask("network", "role", lab, node.node_id)["role"] == "owner"
        assert ask("network", "policy", lab, "--allowed-ports", "7")["allowed_ports"] == [7]
        assert ask("network", "policy", lab)["allowed_ports"] == [7]
        assert ask("register")["node_id"] == node.node_id
        assert ask("network", "delete", lab)["network_id"] == lab
        # Without the key nothing can be signed.
        (home / "identity.json").unlink()
        refused = run.run("--json", "register")
        assert json.loads(refused.stdout)["code"] == "unavailable"
