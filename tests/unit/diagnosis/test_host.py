"""Faults of a host: real files and folders, and figures where only root could make them so."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pilotstack.diagnosis import host, probes
from pilotstack.diagnosis.findings import Finding, Severity
from pilotstack.diagnosis.host import Place, Running, Socket, place_of

UID = os.geteuid()
PATH = Path("/somewhere/identity.json")


def code(found: Finding | None) -> str:
    if found is None:
        return ""
    assert found.text.endswith(".")
    assert found.fix or found.severity in (Severity.OK, Severity.NOTE)
    return found.code


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        (100, 0, "descriptors_too_few"),
        (1024, 0, "descriptors_few"),
        (65_536, 100, "descriptors_enough"),
        (65_536, 65_000, "descriptors_used_up"),
    ],
)
def test_descriptors(limit: int, used: int, expected: str) -> None:
    assert code(host.descriptors(limit, used)) == expected


def test_the_descriptors_of_a_process_are_counted() -> None:
    limit, used = probes.descriptor_limit(os.getpid())
    with open(os.devnull, "rb"):
        assert probes.descriptor_limit(os.getpid()) == (limit, used + 1)
    assert probes.descriptor_limit(None)[1] == 0


@pytest.mark.parametrize(
    ("free", "expected"),
    [(0, "disk_full"), (100 << 20, "disk_nearly_full"), (10 << 30, "disk_room")],
)
def test_the_disk(free: int, expected: str) -> None:
    assert code(host.disk(PATH, free)) == expected


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    path, free = probes.free_bytes(tmp_path / "a" / "b")
    assert (path, free > 0) == (tmp_path, True)


@pytest.mark.parametrize(
    ("mode", "is_secret", "expected"),
    [
        (0o600, True, ""),
        (0o640, False, ""),
        (0o640, True, "permissions_readable"),
        (0o604, True, "permissions_readable"),
        (0o620, True, "permissions_writable"),
        (0o602, False, "permissions_writable"),
    ],
)
def test_permissions_of_a_file(tmp_path: Path, mode: int, is_secret: bool, expected: str) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    found = host.permissions(place_of(path, is_secret=is_secret), UID)
    assert code(found) == expected
    assert found is None or found.fix.startswith(f"chmod 600 {path}")


def test_permissions_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "home"
    assert code(host.permissions(place_of(path), UID)) == ""
    path.mkdir()
    for mode, expected in ((0o755, ""), (0o775, "permissions_writable"), (0o1777, "")):
        path.chmod(mode)
        assert code(host.permissions(place_of(path), UID)) == expected


def test_places_of_others_and_those_that_cannot_be_written() -> None:
    folder = 0o040700
    assert code(host.permissions(Place(PATH, folder, UID + 1), UID)) == "permissions_owner"
    found = host.permissions(Place(PATH, folder, UID, is_writable=False), UID)
    assert code(found) == "permissions_read_only"


def test_an_identity_that_cannot_be_used() -> None:
    assert code(host.identity(PATH, "")) == ""
    assert code(host.identity(PATH, "it holds no identity")) == "identity_unusable"


@pytest.mark.parametrize(
    ("is_there", "is_locked", "expected"),
    [(False, False, ""), (True, True, ""), (True, False, "pid_file_stale")],
)
def test_pid_files(is_there: bool, is_locked: bool, expected: str) -> None:
    assert code(host.pid_file(PATH, is_there=is_there, is_locked=is_locked)) == expected


def test_sockets(tmp_path: Path) -> None:
    path = tmp_path / "pilot.sock"
    assert code(host.socket(probes.socket_at(path), UID)) == ""
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(path))
        served.listen()
        assert code(host.socket(probes.socket_at(path), UID)) == ""
    assert code(host.socket(probes.socket_at(path), UID)) == "socket_stale"
    other = Socket(path, is_there=True, uid=UID + 1)
    assert code(host.socket(other, UID)) == "socket_of_another"


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        (Running(), "daemon_not_running"),
        (Running(42, problem="no answer in time"), "daemon_hung"),
        (Running(42, is_answering=True, version="0.9.12"), "daemon_older"),
        (Running(42, is_answering=True), "daemon_older"),
        (Running(42, is_answering=True, version="1.0"), "daemon_answers"),
        (Running(42, is_answering=True, version="1.0.0"), "daemon_answers"),
        (Running(None, is_answering=True, version="1.0.1"), "daemon_newer"),
        (Running(42, is_answering=True, version="unknown"), "daemon_older"),
    ],
)
def test_the_daemon(running: Running, expected: str) -> None:
    assert code(host.daemon(running, "1.0.0")) == expected
