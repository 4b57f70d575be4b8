"""Host candidates of this node, and which of a peer's are tried."""

from __future__ import annotations

import pytest

from pilotstack import _interfaces, _resolving
from pilotstack.daemon import candidates
from pilotstack.daemon.candidates import Candidates, worth_trying

PUBLIC, OTHER = "203.0.113.1:4000", "198.51.100.7:5000"


class Host:
    """One host's interfaces and routes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses = ["192.168.1.5", "2001:db8::5"]
        self.unroutable: set[str] = set()
        monkeypatch.setattr(_interfaces, "host_addresses", self._found)
        monkeypatch.setattr(_resolving, "source_towards", self._source)

    def _found(self, **_: object) -> tuple[str, ...]:
        return tuple(self.addresses)

    def _source(self, address: str) -> str | None:
        return None if address in self.unroutable else "10.0.0.1"


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def made(bound: str, *, is_hidden: bool = False) -> tuple[Candidates, list[object]]:
    told: list[object] = []
    return Candidates((bound, 4000), told.append, is_hidden=is_hidden), told


def test_every_change_of_addresses_is_told_once(host: Host) -> None:
    own, told = made("::")
    assert own.look()
    assert not own.look()
    host.addresses = ["10.0.0.9"]
    assert own.look()
    assert told == [
        [("host", "192.168.1.5:4000"), ("host", "[2001:db8::5]:4000")],
        [("host", "10.0.0.9:4000")],
    ]


def test_a_mapped_endpoint_is_told_beside_them() -> None:
    own, told = made("0.0.0.0")
    own.look()
    own.set_mapped(PUBLIC)
    own.set_mapped(PUBLIC)
    own.set_mapped("")
    one = ("host", "192.168.1.5:4000")
    assert told == [[one], [one, ("mapped", PUBLIC)], [one]]


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        ("0.0.0.0", ("192.168.1.5:4000",)),
        ("10.7.7.7", ("10.7.7.7:4000",)),
        ("127.0.0.1", ("127.0.0.1:4000",)),
        ("fe80::1", ()),
    ],
)
def test_candidates_follow_the_address_that_is_bound(bound: str, expected: object) -> None:
    own, _ = made(bound)
    own.look()
    assert own.hosts == expected


def test_a_node_that_takes_relayed_frames_only_has_none() -> None:
    own, told = made("::", is_hidden=True)
    assert not own.look()
    own.set_mapped(PUBLIC)
    assert (own.hosts, told) == ((), [])


def tried(*texts: str, endpoint: str = OTHER, own: str = PUBLIC, bound: str = "::") -> list[str]:
    return list(worth_trying(texts, endpoint=endpoint, own=own, bound=bound))


def test_a_private_address_is_tried_on_the_same_site_only() -> None:
    private = ["192.168.1.9:4000", "[fd00::9]:4000"]
    assert tried(*private) == []
    assert tried(*private, endpoint="203.0.113.1:9") == private
    assert tried(*private, endpoint="10.0.0.3:4000") == private, "a registry of the site"
    assert tried(*private, endpoint="") == []
    v6 = {"endpoint": "[2001:db8::1]:1", "own": "[2001:db8::2]:2"}
    assert tried(*private, **v6) == private
    assert tried(*private, endpoint="[2001:db8:0:1::1]:1", own="[2001:db8::2]:2") == []


def test_public_addresses_are_tried_from_everywhere_and_once() -> None:
    texts = ("[2001:db8::9]:4000", OTHER, "[2001:db8::9]:4000", "[::ffff:198.51.100.8]:1")
    assert tried(*texts) == ["[2001:db8::9]:4000", "198.51.100.8:1"]


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1:1", "[::1]:1", "169.254.1.1:1", "[fe80::1]:1", "224.0.0.1:1", "0.0.0.0:1"),
        *("255.255.255.255:1", "240.0.0.1:1", "203.0.113.9:0", "203.0.113.9", "name.example:1"),
        *("", ":", "x" * 300, "[fe80::1%eth0]:1", "203.0.113.9:65536", "\udcff:1"),
    ],
)
def test_what_no_peer_can_have_is_not_tried(text: str) -> None:
    assert tried(text, endpoint=PUBLIC) == []


def test_loopback_addresses_are_for_those_that_are_bound_to_one() -> None:
    assert tried("127.0.0.1:9", endpoint="127.0.0.1:8", own="", bound="127.0.0.1") == [
        "127.0.0.1:9"
    ]
    assert tried("10.0.0.1:9", endpoint="127.0.0.1:8", own="", bound="127.0.0.1") == []


def test_addresses_without_a_route_or_of_another_family_are_not_tried(host: Host) -> None:
    host.unroutable = {"198.51.100.8"}
    assert tried("198.51.100.8:1", "198.51.100.9:1") == ["198.51.100.9:1"]
    assert tried("[2001:db8::9]:1", bound="0.0.0.0") == []
    assert tried("198.51.100.9:1", bound="2001:db8::5") == []


def test_no_more_candidates_than_the_limit() -> None:
    texts = [f"198.51.100.{n}:1" for n in range(10, 100)]
    assert tried(*texts) == texts[: candidates.MAX_CANDIDATES]
