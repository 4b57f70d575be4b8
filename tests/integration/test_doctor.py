"""``pilotctl doctor`` on hosts that are not well: real daemons, disks, links and NATs."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.namespaces import Routed, inside
from tests.support.programs import BIN, environment

from pilotstack.testing import Network, Process

if TYPE_CHECKING:
    from pathlib import Path

ROOT_ONLY = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nft") is None,
    reason="namespaces, NATs and mounts need root, iproute2 and nftables",
)


class Doctor:
    """Runs it with a home of its own."""

    def __init__(self, home: Path, network: Network | None = None) -> None:
        self.home = home
        self.directory = home / ".pilot"
        self.environment = environment(PILOT_HOME=str(home), HOME=str(home))
        self.flags: list[str] = []
        if network is not None:
            self.flags += ["--registry", network.registry]
            self.flags += ["--beacon", network.rendezvous.ready["beacon"]]
        self.status = 0

    def run(self, *flags: str, prefix: tuple[str, ...] = (), **options: Any) -> dict[str, str]:
        """Severities by code."""
        result = subprocess.run(
            [*prefix, BIN / "pilotctl", "--json", "doctor", *self.flags, *flags],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env=self.environment,
            **options,
        )
        data = json.loads(result.stdout)["data"]
        found = {row["code"]: row["severity"] for row in data["findings"]}
        assert all(row["fix"] for row in data["findings"] if row["severity"] == "error")
        assert data["ok"] is ("error" not in found.values())
        assert result.returncode == (0 if data["ok"] else 1), result.stdout + result.stderr
        return found


@pytest.fixture
def doctor(tmp_path: Path, shared_network: Network) -> Doctor:
    return Doctor(tmp_path, shared_network)


def test_a_host_that_is_well(doctor: Doctor, shared_network: Network) -> None:
    found = doctor.run("--socket", str(shared_network.nodes["agent-a"].socket))
    well = {"registry_reached", "clock_right", "udp_works", "nat_none", "mtu_usual"}
    assert well | {"daemon_answers", "descriptors_enough", "permissions_right"} <= set(found)
    # Without flags it asks the daemon for registry and beacons.
    doctor.flags = []
    again = doctor.run("--socket", str(shared_network.nodes["agent-a"].socket))
    assert (again["registry_reached"], again["udp_works"]) == ("ok", "ok")


def test_without_daemon_registry_and_beacon(tmp_path: Path) -> None:
    found = Doctor(tmp_path).run("--registry", "127.0.0.1:1", "--beacon", "127.0.0.1:1")
    assert found["registry_refused"] == "error"
    assert found["udp_no_answer"] == "error"
    assert found["daemon_not_running"] == "note"
    found = Doctor(tmp_path).run("--registry", "127.0.0.1:1", "--beacon", "nowhere.invalid:1")
    assert found["beacon_unresolved"] == "error"


def test_a_daemon_that_hangs_and_one_that_crashed(doctor: Doctor) -> None:
    flags = [*doctor.flags, "--listen", "127.0.0.1:0"]
    started = subprocess.run(
        [BIN / "pilotctl", "--json", "daemon", "start", *flags],
        capture_output=True,
        check=True,
        env=doctor.environment,
    )
    pid = json.loads(started.stdout)["data"]["pid"]
    try:
        assert doctor.run()["daemon_answers"] == "ok"
        os.kill(pid, signal.SIGSTOP)
        assert doctor.run()["daemon_hung"] == "error"
    finally:
        with open(f"/proc/{pid}/cmdline", "rb") as named:
            assert b"pilot" in named.read()
        gone = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([gone], [], [])
        os.close(gone)
    found = doctor.run()
    assert found["daemon_not_running"] == "note"
    assert (found["pid_file_stale"], found["socket_stale"]) == ("note", "note")


def test_an_identity_that_others_can_read_and_one_that_is_none(doctor: Doctor) -> None:
    doctor.directory.mkdir(mode=0o700)
    identity = doctor.directory / "identity.json"
    identity.write_text("{}")
    identity.chmod(0o644)
    found = doctor.run()
    assert (found["permissions_readable"], found["identity_unusable"]) == ("error", "error")
    identity.unlink()
    doctor.directory.chmod(0o777)
    assert doctor.run()["permissions_writable"] == "error"


def test_few_descriptors(doctor: Doctor) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    assert doctor.run(preexec_fn=limit)["descriptors_too_few"] == "error"


@ROOT_ONLY
def test_a_full_disk_and_a_read_only_one(doctor: Doctor) -> None:
    doctor.directory.mkdir(mode=0o700)
    place = str(doctor.directory)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", place]
    subprocess.run(mount, check=True)
    try:
        found = doctor.run()
        assert found["disk_full"] == "error"
        remount = ["mount", "-o", "remount,ro", place]
        subprocess.run(remount, check=True)
        assert doctor.run()["permissions_read_only"] == "warning"
    finally:
        subprocess.run(["umount", place], check=True)


@ROOT_ONLY
def test_a_nat_a_narrow_link_and_no_udp(tmp_path: Path) -> None:
    doctor = Doctor(tmp_path)
    with Routed("10.78.1.2/24", "10.78.2.2/24") as routed:
        host = str(routed.right.ip)
        beacons = []
        running = []
        try:
            for number in range(2):
                process = Process(
                    "rendezvous",
                    ["--registry-addr", f"{host}:0", "--beacon-addr", f"{host}:0"],
                    tmp_path / f"{number}.log",
                    prefix=inside(routed.right_name),
                )
                running.append(process)
                beacons.append(process.ready["beacon"])
            doctor.flags = ["--registry", running[0].ready["registry"]]
            doctor.flags += ["--beacon", ",".join(beacons)]
            prefix = tuple(inside(routed.left_name))

            def rules(text: str) -> None:
                subprocess.run(
                    [*inside(routed.router_name), "nft", "-f", "-"],
                    input=f"flush ruleset\ntable inet lab {{\n{text}\n}}\n",
                    text=True,
                    check=True,
                )

            routed.set_mtu(1124)
            rules(
                "chain out { type nat hook postrouting priority srcnat; "
                'oifname "to-right" masquerade random,fully-random; }'
            )
            found = doctor.run(prefix=prefix)
            assert (found["nat_dependent"], found["mtu_small"]) == ("warning", "warning")
            rules("chain in { type filter hook forward priority filter; ip protocol udp drop; }")
            found = doctor.run(prefix=prefix)
            assert (found["registry_reached"], found["udp_no_answer"]) == ("ok", "error")
        finally:
            for process in running:
                process.stop()


def test_for_people(shared_network: Network, tmp_path: Path) -> None:
    home = Doctor(tmp_path, shared_network)
    result = subprocess.run(
        [BIN / "pilotctl", "--no-json", "doctor", *home.flags],
        capture_output=True,
        text=True,
        check=False,
        env=home.environment | {"COLUMNS": "40"},
    )
    assert result.returncode == 0, result.stderr
    assert "No daemon runs." in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 40
    assert sys.executable not in result.stderr
