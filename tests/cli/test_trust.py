"""The trust commands between private agents, in steps that go on where the one before ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from inline_snapshot import snapshot
from tests.support.arrivals import until_asked

from pilotstack import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pilotctl import Pilotctl

    from pilotstack.testing import Network


@pytest.fixture(scope="module")
def b_driver(private_network: Network) -> Iterator[sync.Driver]:
    """Waits for what the second agent must have heard before it is asked about."""
    with sync.Driver(private_network.nodes["agent-b"].socket) as driver:
        yield driver


def handshake_and_pending(a: Pilotctl, b: Pilotctl, b_driver: sync.Driver) -> None:
    assert a("handshake", "agent-b", "want to collaborate") == snapshot(
        '{"data": {"node_id": 2, "status": "sent"}, "status": "ok"}\n'
    )
    until_asked(b_driver, 1)
    assert b("pending") == snapshot(
        '{"data": {"pending": [{"justification": "want to collaborate", "node_id": 1, "public_key": "[key]", "received_at": [unix]}]}, "status": "ok"}\n'
    )
    assert b.table("pending") == snapshot("""\
pending
┏━━━━━━┳━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━┓
┃ node ┃ justification       ┃ received                ┃
┡━━━━━━╇━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━┩
│ 1    │ want to collaborate │ [time] UTC │
└──────┴─────────────────────┴─────────────────────────┘
answer with: pilotctl approve NODE, or pilotctl reject NODE REASON
""")
    assert a.table("handshake", "nobody") == snapshot("""\
--- stderr ---
error: hostname "nobody" not found
hint:  check the spelling; a node that deregisters loses its name, and names of the nameserver last for five minutes
--- exit 3 ---
""")
    assert a("pending") == snapshot('{"data": {"pending": []}, "status": "ok"}\n')


def approve(a: Pilotctl, b: Pilotctl, private_network: Network) -> None:
    assert b("approve", 3) == snapshot("""\
{"code": "not_found", "hint": "list them with: pilotctl pending", "message": "no request of node 3 waits", "status": "error"}
--- exit 3 ---
""")
    assert b("approve", 1) == snapshot(
        '{"data": {"node_id": 1, "status": "approved"}, "status": "ok"}\n'
    )
    with sync.Driver(private_network.nodes["agent-a"].socket) as driver:
        assert driver.wait_for_trust("agent-b")
    assert a("send", "agent-b", 7, "--data", "hello") == snapshot(
        '{"data": {"port": 7, "response": "hello", "sent": "hello", "target": "agent-b"}, "status": "ok"}\n'
    )


def trust(a: Pilotctl, b: Pilotctl) -> None:
    assert a("trust") == snapshot(
        '{"data": {"total": 1, "trusted": [{"approved_at": [unix], "mutual": true, "network": 0, "node_id": 2, "public_key": "[key]"}]}, "status": "ok"}\n'
    )
    assert b.table("trust") == snapshot("""\
trusted
┏━━━━━━┳━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━┓
┃ node ┃ mutual ┃ network ┃ approved                ┃
┡━━━━━━╇━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━┩
│ 1    │ no     │ -       │ [time] UTC │
└──────┴────────┴─────────┴─────────────────────────┘
""")


def reject(c: Pilotctl, b: Pilotctl, b_driver: sync.Driver) -> None:
    assert c.table("handshake", "agent-b", "me too") == snapshot("""\
node_id  2
status   sent
""")
    until_asked(b_driver, 3)
    assert b("reject", 3, "not authorized") == snapshot(
        '{"data": {"node_id": 3, "status": "rejected"}, "status": "ok"}\n'
    )
    assert b.table("reject", 3) == snapshot("""\
--- stderr ---
error: no request of node 3 waits
hint:  list them with: pilotctl pending
--- exit 3 ---
""")


def untrust(a: Pilotctl, b: Pilotctl) -> None:
    assert b("untrust", 1) == snapshot('{"data": {"node_id": 1}, "status": "ok"}\n')
    assert b("untrust", 1) == snapshot("""\
{"code": "not_found", "hint": "list trusted nodes with: pilotctl trust", "message": "handshake revoke: node 1 was not trusted", "status": "error"}
--- exit 3 ---
""")
    assert b.table("trust") == snapshot("""\
trusted
┏━━━━━━┳━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━┓
┃ node ┃ mutual ┃ network ┃ approved ┃
┡━━━━━━╇━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━┩
└──────┴────────┴─────────┴──────────┘
""")


def test_trust_from_a_request_to_its_end(
    private_network: Network,
    a: Pilotctl,
    b: Pilotctl,
    c: Pilotctl,
    b_driver: sync.Driver,
) -> None:
    handshake_and_pending(a, b, b_driver)
    approve(a, b, private_network)
    trust(a, b)
    reject(c, b, b_driver)
    untrust(a, b)
