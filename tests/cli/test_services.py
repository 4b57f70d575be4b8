"""What nodes offer, and names on the overlay, as they are typed and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from inline_snapshot import snapshot
from tests.support.pilotctl import Pilotctl

from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def named() -> Iterator[Network]:
    """A nameserver and an agent."""
    with Network() as network:
        network.start("nameserver", "--nameserver", "--no-echo")
        network.start("agent-a")
        yield network


@pytest.fixture
def a(named: Network) -> Pilotctl:
    """The agent's commands."""
    return Pilotctl.of(named, "agent-a")


def test_services(a: Pilotctl) -> None:
    shown = a.table("services", "nameserver", "--port", "1234", "--all")
    # Others may be built in, too.
    rows = [line for line in shown.splitlines() if line[2:6].strip() in {"1", "7", "53", "1234"}]
    assert "\n".join(rows) == snapshot("""\
│ 1    │ status          │ open   │ True     │
│ 7    │ echo            │ closed │ False    │
│ 53   │ names           │ open   │ True     │
│ 1234 │                 │ closed │ False    │\
""")
    assert a("services", "nobody") == snapshot("""\
{"code": "not_found", "hint": "check the spelling; a node that deregisters loses its name, and names of the nameserver last for five minutes", "message": "hostname \\"nobody\\" not found", "status": "error"}
--- exit 3 ---
""")


def test_names_are_registered_resolved_listed_and_given_up(a: Pilotctl) -> None:
    assert a("name-register", "alpha") == snapshot(
        '{"data": {"address": "0:0000.0000.0002", "name": "alpha", "nameserver": "0:0000.0000.0001:53", "type": "A"}, "status": "ok"}\n'
    )
    assert a.table("name-register", "api", "--type", "s", "--port", "80") == snapshot(
        "api is registered\n"
    )
    assert a.table("resolve", "alpha") == snapshot("0:0000.0000.0002\n")
    assert a("resolve", "0", "--type", "S", "--port", "80") == snapshot(
        '{"data": {"records": [{"address": "0:0000.0000.0002", "name": "api", "network": 0, "port": 80, "type": "S"}]}, "status": "ok"}\n'
    )
    assert a.table("name-list") == snapshot("""\
Records
┏━━━━━━┳━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━┓
┃ type ┃ name  ┃ address          ┃ network ┃ port ┃
┡━━━━━━╇━━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━┩
│ A    │ alpha │ 0:0000.0000.0002 │         │      │
│ S    │ api   │ 0:0000.0000.0002 │ 0       │ 80   │
└──────┴───────┴──────────────────┴─────────┴──────┘
""")
    assert a("name-unregister", "alpha") == snapshot(
        '{"data": {"name": "alpha", "type": "A"}, "status": "ok"}\n'
    )
    assert a.table("name-unregister", "api", "--type", "S", "--port", "80") == snapshot(
        "api is given up\n"
    )
    assert a("name-list") == snapshot('{"data": {"records": []}, "status": "ok"}\n')


def test_what_cannot_be_registered_says_why(a: Pilotctl) -> None:
    assert a("name-register", "12") == snapshot("""\
{"code": "invalid_argument", "hint": "names have letters, digits, '-', '_' and '.', and are no numbers", "message": "not a name: '12'", "status": "error"}
--- exit 2 ---
""")
    assert a.table("name-register", "nameserver") == snapshot("""\
--- stderr ---
error: nameserver: name "nameserver" is taken
hint:  choose another name; its owner is shown by: pilotctl resolve NAME
--- exit 4 ---
""")
    assert a("name-register", "alpha", "nameserver") == snapshot("""\
{"code": "permission_denied", "hint": "that node, or a member of that network, can do it", "message": "nameserver: cannot register address for another node", "status": "error"}
--- exit 5 ---
""")
    assert a.table("name-register", "lab", "--type", "N") == snapshot("""\
--- stderr ---
error: a network is missing
hint:  give it with --network
--- exit 2 ---
""")
    assert a("name-register", "lab", "7", "--type", "N") == snapshot("""\
{"code": "permission_denied", "hint": "join it first: pilotctl network join NETWORK", "message": "nameserver: not a member of network 7", "status": "error"}
--- exit 5 ---
""")
    assert a.table("resolve", "nobody") == snapshot("""\
--- stderr ---
error: nameserver: name "nobody" not found
hint:  check the spelling; names last for five minutes after pilotctl name-register
--- exit 3 ---
""")
    assert a("resolve", "alpha", "--names", "a:b:c") == snapshot("""\
{"code": "invalid_argument", "hint": "addresses look like 0:0000.0000.002A, and ports are 1 to 65535", "message": "neither a name nor an address: 'a:b:c'", "status": "error"}
--- exit 2 ---
""")
