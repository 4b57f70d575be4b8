"""What systemd is told, and that nobody else is told anything."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from pilotstack import _notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        if request.param == "abstract":
            name = f"@pilot-test-{os.getpid()}"
            listening.bind(f"\0{name[1:]}")
        else:
            listening.bind(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


def test_states_arrive(manager: socket.socket) -> None:
    assert _notify.ready()
    first, second = manager.recv(1000).decode().splitlines()
    assert first == "READY=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert _notify.tell(_notify.STOPPING, "STATUS=leaving")
    assert manager.recv(1000) == b"STOPPING=1\nSTATUS=leaving"


def test_a_manager_that_does_not_read_blocks_nobody(manager: socket.socket) -> None:
    told = [_notify.tell(_notify.ALIVE) for _ in range(10_000)]
    assert told[0]
    assert not told[-1]


@pytest.mark.parametrize("path", ["", "relative", "/nowhere/notify", "vsock:2:1", "@" + "n" * 200])
def test_without_a_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert not _notify.ready()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("", "", None),
        ("0", "", None),
        ("30000000", "", 15.0),
        ("30000000", "ours", 15.0),
        ("30000000", "1", None),
        ("soon", "", None),
        ("9" * 5000, "", None),
    ],
)
def test_how_often_signs_of_life_are_due(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    assert _notify.watchdog_interval() == seconds
