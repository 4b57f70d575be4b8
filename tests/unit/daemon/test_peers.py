"""What the core is told of a peer that it dials."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio.lowlevel
import pytest

from pilotstack import _resolving
from pilotstack.daemon.peers import PeerFinder
from pilotstack.daemon.records import Records
from pilotstack.registry.client import Record

if TYPE_CHECKING:
    from pilotstack.registry.client import RegistryClient

pytestmark = pytest.mark.anyio
KEY = bytes(32)
OWN = ("203.0.113.1:4000", "::")


class Core:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def on_record(
        self,
        *what: object,
        candidates: list[str],
        is_relay_only: bool,
    ) -> None:
        self.told.append((*what, candidates, is_relay_only))

    def on_no_record(self, node: int, why: str = "") -> None:
        self.told.append((node, None, why))


async def told_of(record: Record, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    class Registry:
        async def record(self, node: int) -> Record:
            await anyio.lowlevel.checkpoint()
            assert node == record.node_id
            return record

    async def key_seen(node: int, key: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        assert (node, key) == (record.node_id, KEY)

    async def resolve(host: str) -> list[str]:
        await anyio.lowlevel.checkpoint()
        return {"name": ["2001:db8::1", "198.51.100.1"]}.get(host, [host])

    monkeypatch.setattr(_resolving, "resolve", resolve)
    routes = lambda address: None if address == "2001:db8::1" else "10.0.0.1"  # noqa: E731
    monkeypatch.setattr(_resolving, "source_towards", routes)
    core = Core()
    records = Records(cast("RegistryClient", Registry()))
    await PeerFinder(records, key_seen, core, lambda: OWN).find(record.node_id)
    (told,) = core.told
    return told


async def test_candidates_go_with_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    lan = ("192.168.1.9:4000", "198.51.100.9:4000", "127.0.0.1:4000")
    record = Record(7, KEY, True, "", "203.0.113.1:5000", lan_addrs=lan)
    assert await told_of(record, monkeypatch) == (
        *(7, KEY, "203.0.113.1:5000"),
        ["192.168.1.9:4000", "198.51.100.9:4000"],
        False,
    )
    record = Record(7, KEY, True, "", "198.51.100.7:5000", lan_addrs=lan)
    assert (await told_of(record, monkeypatch))[3] == ["198.51.100.9:4000"]


async def test_a_name_has_an_address_with_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(7, KEY, True, "", "name:5000")
    assert await told_of(record, monkeypatch) == (7, KEY, "198.51.100.1:5000", [], False)


async def test_a_node_behind_a_beacon_has_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(7, KEY, True, "", "", relay_only=True)
    assert await told_of(record, monkeypatch) == (7, KEY, None, [], True)


async def test_a_hidden_node_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(7, KEY, False, "", "")
    assert await told_of(record, monkeypatch) == (
        *(7, None),
        "node 7 is private, and does not trust this one",
    )
