"""The list of beacons: settings, the registry, and the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest

from pilotstack import _resolving
from pilotstack.daemon import beacons as module
from pilotstack.daemon.beacons import MAX_BEACONS, Beacons, parse_beacons
from pilotstack.errors import ConnectionFailed, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = pytest.mark.anyio

FIRST, SECOND = "203.0.113.1:9001", "198.51.100.1:9001"


class Registry:
    """Lists beacons."""

    def __init__(self, *listed: str, host: str = "192.0.2.1") -> None:
        self.listed: Iterable[str] = listed
        self.host = host
        self.is_down = False
        self.asked = 0

    async def fetch(self) -> Iterable[str]:
        await anyio.lowlevel.checkpoint()
        self.asked += 1
        if self.is_down:
            raise ConnectionFailed("no registry answers")
        return self.listed


def made(
    registry: Registry, *configured: str, key: bytes = b"k", path: Path | None = None
) -> Beacons:
    return Beacons(configured, registry.fetch, lambda: registry.host, key, path)


async def test_those_of_the_settings_come_first_and_those_of_the_registry_after_them() -> None:
    beacons = made(Registry(SECOND, FIRST), FIRST)
    assert list(beacons.addresses) == [FIRST]
    assert await beacons.refresh()
    assert list(beacons.addresses) == [FIRST, SECOND]
    assert not await beacons.refresh()


async def test_nodes_spread_over_listed_beacons_and_stay_when_one_is_added() -> None:
    listed = [f"203.0.113.{n}:9001" for n in range(10, 14)]
    firsts, moved = [], 0
    for node in range(64):
        registry = Registry(*listed)
        beacons = made(registry, FIRST, key=bytes([node]))
        await beacons.refresh()
        firsts.append(beacons.addresses[1])
        registry.listed = [*listed, SECOND]
        await beacons.refresh()
        moved += beacons.addresses[1] != firsts[-1]
    assert set(firsts) == set(listed)
    assert 0 < moved < 32


async def test_a_list_that_is_empty_or_does_not_come_changes_nothing() -> None:
    registry = Registry(SECOND)
    beacons = made(registry, FIRST)
    await beacons.refresh()
    registry.listed = ()
    assert not await beacons.refresh()
    registry.is_down = True
    assert not await beacons.refresh()
    assert beacons.addresses == (FIRST, SECOND)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:9001", "10.0.0.1:9001", "[fe80::1]:9001", "localhost:9001", "[fd00::1]:1"]
)
async def test_a_public_registry_lists_no_private_beacons(text: str) -> None:
    beacons = made(Registry(text), FIRST)
    assert not await beacons.refresh()
    beacons = made(Registry(text, host="10.0.0.2"), FIRST)
    assert await beacons.refresh(), "one on a private network does"


@pytest.mark.parametrize("text", ["", "x", "203.0.113.9", "203.0.113.9:0", "a b:1", "x" * 300])
async def test_what_is_no_beacon_is_left_out(text: str) -> None:
    beacons = made(Registry(text), FIRST)
    assert not await beacons.refresh()


async def test_the_list_is_bounded() -> None:
    beacons = made(Registry(*(f"203.0.113.{n}:9001" for n in range(1, 200))), FIRST)
    await beacons.refresh()
    assert len(beacons.addresses) == MAX_BEACONS


async def test_the_last_list_is_stored_for_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "beacons.json"
    await made(Registry(SECOND), FIRST, path=path).refresh()
    registry = Registry()
    assert made(registry, FIRST, path=path).addresses == (FIRST, SECOND)
    assert registry.asked == 0
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"beacons": 5}', b'{"beacons": ["", "x"]}'])
async def test_a_file_that_makes_no_sense_lists_none(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "beacons.json"
    path.write_bytes(text)
    assert made(Registry(), FIRST, path=path).addresses == (FIRST,)


async def test_a_file_that_cannot_be_used_is_no_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert made(Registry(), FIRST, path=tmp_path / "pipe").addresses == (FIRST,)
    beacons = made(Registry(SECOND), FIRST, path=tmp_path / "missing" / "beacons.json")
    assert await beacons.refresh()


async def test_without_beacons_in_the_settings_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "beacons.json"
    await made(Registry(SECOND), FIRST, path=path).refresh()
    registry = Registry(SECOND)
    beacons = made(registry, path=path)
    assert not await beacons.refresh()
    assert (beacons.addresses, registry.asked) == ((), 0)


async def test_names_have_addresses_of_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "a": ["2001:db8::1", "203.0.113.1", "203.0.113.2", "203.0.113.3"],
        "c": ["198.51.100.1"],
    }

    async def resolve(host: str) -> list[str]:
        await anyio.lowlevel.checkpoint()
        if host not in names:
            raise OSError("no such host")
        return names[host]

    monkeypatch.setattr(_resolving, "resolve", resolve)
    beacons = made(Registry(), "a:9001", "b:9001", "c:9002")
    assert await beacons.endpoints(lambda _: True) == [
        "[2001:db8::1]:9001",
        "203.0.113.1:9001",
        "203.0.113.2:9001",
        "198.51.100.1:9002",
    ]
    assert await beacons.endpoints(lambda address: ":" in address) == ["[2001:db8::1]:9001"]


async def test_the_list_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH", 0.0)
    monkeypatch.setattr(module, "JITTER", 0.001)
    registry = Registry()
    beacons = made(registry, FIRST)
    changed = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beacons.keep, changed.set)
        registry.listed = [SECOND]
        with anyio.fail_after(10):
            await changed.wait()
        tasks.cancel_scope.cancel()
    assert beacons.addresses == (FIRST, SECOND)


def test_beacons_of_the_command_line() -> None:
    assert parse_beacons("") == ()
    assert parse_beacons(f"{FIRST}, [2001:db8::1]:9001,{FIRST}") == (FIRST, "[2001:db8::1]:9001")
    with pytest.raises(InvalidArgument):
        parse_beacons("beacon")
    with pytest.raises(InvalidArgument):
        parse_beacons(",".join(f"203.0.113.{n}:1" for n in range(1, 20)))
