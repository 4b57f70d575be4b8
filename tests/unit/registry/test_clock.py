"""The registry's clock: steps of the wall clock, restarts, reboots, damaged files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.registry import NOW, World, snapshot_of

from pilotstack.registry.rules.reaper import reap
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.clock import MAX_AWAY, Clock

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400.0


class Host:
    """A host's two clocks."""

    def __init__(self) -> None:
        self.monotonic, self.wall, self.boot = 1000.0, NOW, "one"

    def clock(self, path: Path | None = None) -> Clock:
        return Clock(path, monotonic=lambda: self.monotonic, wall=lambda: self.wall, boot=self.boot)

    def pass_time(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.mark.parametrize("days", [40, 100, -40, -100])
def test_a_step_of_the_wall_clock_changes_nothing(days: int) -> None:
    host = Host()
    clock = host.clock()
    host.wall += days * DAY
    assert clock.now() == NOW
    assert clock.skew == days * DAY
    host.pass_time(5)
    assert clock.now() == NOW + 5


@pytest.mark.parametrize("days", [40, -40])
def test_a_step_during_a_restart_changes_nothing(tmp_path: Path, days: int) -> None:
    host, path = Host(), tmp_path / "clock"
    host.clock(path).save()
    host.pass_time(3600)
    host.wall += days * DAY
    assert host.clock(path).now() == NOW + 3600
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("away", "counted"), [(3600, 3600), (100 * DAY, MAX_AWAY), (-5 * DAY, 0), (0, 0)]
)
def test_after_a_reboot_the_wall_clock_is_believed_within_bounds(
    tmp_path: Path, away: float, counted: float
) -> None:
    host, path = Host(), tmp_path / "clock"
    host.clock(path).save()
    host.boot, host.monotonic = "two", 10.0
    host.wall += away
    assert host.clock(path).now() == NOW + counted


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"boot":1}', b"\xff" * 99])
def test_a_damaged_clock_file_is_ignored(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "clock"
    path.write_bytes(text)
    clock = Host().clock(path)
    assert clock.now() == NOW
    clock.save()
    assert Host().clock(path).now() == NOW


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "clock"
    target.write_text("mine")
    path.symlink_to(target)
    (tmp_path / "clock.tmp").symlink_to(target)
    Host().clock(path).save()
    assert target.read_text() == "mine"


def test_a_directory_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    Host().clock(tmp_path / "missing" / "clock").save()
    assert os.listdir(tmp_path) == []


def test_a_clock_step_expires_nothing() -> None:
    host, world = Host(), World()
    clock = host.clock()
    world.join("a", "b", "c")
    network = world.create("a", "n", join_rule="invite")
    invite: dict[str, Any] = {"inviter_id": 1, "network_id": network, "target_node_id": 2}
    world.ask("a", "invite_to_network", **invite)
    world.request("a", "b")
    world.trust("c", "b")
    world.register("new", sign=False)
    before = snapshot_of(world.state)

    def pass_over() -> None:
        for _ in range(3):
            host.pass_time(11)
            world.state.skew = clock.skew
            assert reap(world.state, clock.now()) == ()

    for days in (40, 0, -40, 0, 100, 0):
        host.wall = NOW + days * DAY
        pass_over()
        assert world.state.offline == set()
    after = snapshot_of(world.state)
    assert before == after
    # What the world is shown follows the wall clock.
    host.wall = NOW + 40 * DAY
    world.state.skew = clock.skew
    world.now = clock.now()
    assert world.about("a", "heartbeat")["time"] == int(host.wall)
    assert snapshot_of(snapshot.load(after, clock.now()))["invite_inbox"] == before["invite_inbox"]
