"""What a daemon writes about its connections."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pilotstack import sync
from pilotstack.testing import Network

if TYPE_CHECKING:
    from pathlib import Path


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON text sequence (RFC 7464)."""
    return [json.loads(record) for record in path.read_text().split("\x1e")[1:]]


def test_a_transfer_between_daemons_is_written_as_qlog(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "qlog"
    with Network() as network:
        node = network.start("agent-a", "--qlog", str(folder))
        network.start("agent-b")
        with sync.Driver(node.socket) as driver, driver.dial("agent-b:7") as stream:
            stream.sendall(b"x" * 100_000)
            received = 0
            while received < 100_000:
                received += len(stream.recv(65536))
    (connection,) = folder.glob("*-connection-*.sqlog")
    header, *events = records(connection)
    assert header["qlog_format"] == "JSON-SEQ"
    changes = [
        event["data"]
        for event in events
        if event["name"] == "connectivity:connection_state_updated"
    ]
    assert [change["new"] for change in changes[:2]] == ["SYN-SENT", "ESTABLISHED"]
    names = {event["name"] for event in events}
    assert names >= {
        "recovery:metrics_updated",
        "transport:packet_received",
        "transport:packet_sent",
        "tunnel:suite_latched",
    }
    (peer,) = folder.glob("*-peer-*.sqlog")
    assert "tunnel:key_received" in {event.get("name") for event in records(peer)}
