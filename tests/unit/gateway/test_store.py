"""Mappings over a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pilotstack.errors import InvalidArgument
from pilotstack.gateway.mapping import Mapping, parse_ip
from pilotstack.gateway.store import Store
from pilotstack.types import Address

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_gateway_has_the_old_mappings(tmp_path: Path) -> None:
    store = Store(tmp_path / "gateway.json")
    old = Mapping()
    assert store.load(old) == []
    old.map(Address(0, 1), name="agent-a")
    old.map(Address(1, 2), parse_ip("10.4.9.9"))
    old.map(Address(0, 3))
    old.unmap(Address(0, 3))
    store.save(old)
    assert (tmp_path / "gateway.json").stat().st_mode & 0o777 == 0o600
    new = Mapping()
    assert store.load(new) == []
    assert list(new) == list(old)
    assert new.retired() == old.retired()
    assert str(new.map(Address(0, 3)).local_ip) == "10.4.0.2"


def test_mappings_outside_the_subnet_are_lost(tmp_path: Path) -> None:
    store = Store(tmp_path / "gateway.json")
    old = Mapping()
    row = old.map(Address(0, 1))
    old.map(Address(0, 2))
    old.unmap(Address(0, 2))
    store.save(old)
    new = Mapping("10.5.0.0/16")
    assert store.load(new) == [row]
    assert (len(new), new.retired()) == (0, [])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"subnet": "10.4.0.0/16"}',
        b'{"subnet": "10.4.0.0/16", "mappings": [{"local_ip": "x", "pilot_addr": "y"}]}',
        b'{"subnet": "", "mappings": [{"local_ip": "10.4.0.1", "pilot_addr": "y"}]}',
        b'{"subnet": "", "mappings": [], "version": 2}',
    ],
)
def test_a_damaged_file_is_an_error_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gateway.json"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument, match="cannot read the mappings"):
        Store(path).load(Mapping())
    assert path.read_bytes() == content
