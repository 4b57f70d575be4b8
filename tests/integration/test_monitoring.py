"""Health and metrics of real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.support.gateways import own_subnet

from pilotstack import sync
from pilotstack.testing import Network, Process

if TYPE_CHECKING:
    from pathlib import Path


def samples(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """Values by name and labels."""
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }


def test_a_daemon_counts_by_path_and_by_service(tmp_path: Path) -> None:
    del tmp_path
    with Network() as network:
        node = network.start("agent-a", "--http", "127.0.0.1:0", "--keepalive", "1")
        network.start("agent-b")
        with (
            httpx.Client(base_url=f"http://{node.process.ready['http']}") as http,
            sync.Driver(node.socket) as driver,
        ):
            assert http.get("/readyz").json()["checks"]["registration"] == "ok"
            with driver.dial("agent-b:7") as stream:
                stream.sendall(bytes(100_000))
                received = 0
                while received < 100_000:
                    received += len(stream.recv(65_536))
                found = samples(http)
            assert found["pilot_node_service_bytes_total", "sent", "7"] == 100_000
            assert found["pilot_node_service_bytes_total", "received", "7"] == 100_000
            assert found["pilot_node_path_bytes_total", "sent", "lan"] > 100_000
            assert found["pilot_node_path_bytes_total", "sent", "relay"] < 10_000
            assert found["pilot_node_peers", "lan"] == 1
            assert found["pilot_node_dial_seconds_count",] == 1
            assert found["pilot_node_handshake_seconds_count",] == 1
            assert 0 < found["pilot_node_handshake_seconds_sum",] < 30
            assert found["pilot_node_rtt_seconds_count",] > 0
            assert found["pilot_node_registered",] == 1
            # What a stream counted stays after its end.
            while (found := samples(http))["pilot_node_streams",] > 0:
                pass
            assert found["pilot_node_service_bytes_total", "sent", "7"] == 100_000
            network.rendezvous.stop()
            while http.get("/readyz").status_code == 200:
                node_info = driver.info()
            assert node_info.node_id == node.node_id
            assert http.get("/healthz").status_code == 200


def test_a_gateway_and_a_nameserver_tell_what_they_do(tmp_path: Path) -> None:
    with Network() as network:
        node = network.start("agent-a")
        socket = ("--socket", str(node.socket), "--http", "127.0.0.1:0")
        names = Process("nameserver", [*socket], tmp_path / "names.log")
        control = ("--control", str(tmp_path / "gateway.sock"), "--state", str(tmp_path / "state"))
        gateway = Process(
            "gateway",
            [
                "run",
                *socket,
                *control,
                "--unprivileged",
                "--subnet",
                own_subnet(),
                "--ports",
                "7",
                str(node.address),
            ],
            tmp_path / "gateway.log",
        )
        try:
            with httpx.Client(base_url=f"http://{gateway.ready['http']}") as http:
                assert samples(http)["pilot_gateway_mappings",] == 1
                assert http.get("/readyz").status_code == 200
                network.nodes["agent-a"].process.stop()
                while http.get("/readyz").status_code == 200:
                    pass
                assert "daemon" in http.get("/readyz").json()["status"]
                assert http.get("/healthz").status_code == 200
            with httpx.Client(base_url=f"http://{names.ready['http']}") as http:
                assert samples(http)["pilot_nameserver_records",] == 0
        finally:
            gateway.kill()
            names.kill()
