"""``pilotctl gateway`` as people type it, without privileges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from inline_snapshot import snapshot
from tests.support.gateways import own_subnet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pilotctl import Pilotctl


@pytest.fixture
def ctl(agent_a: Pilotctl) -> Iterator[Pilotctl]:
    """The first agent's commands; its gateway is stopped at the end."""
    network = own_subnet().rpartition(".")[0]
    ctl = replace(
        agent_a,
        replaced=((network.replace(".", r"\."), "127.x.y"), (r'"pid": \d+', '"pid": [pid]')),
    )
    state = Path(ctl.environment["PILOT_HOME"]) / ".pilot" / "gateway.json"
    state.unlink(missing_ok=True)
    try:
        yield ctl
    finally:
        ctl.run("gateway", "stop")


def test_a_gateway_from_its_start_to_its_end(ctl: Pilotctl) -> None:
    flags = ("--unprivileged", "--subnet", own_subnet(), "--ports", "8080,8443")
    started = json.loads(ctl.run("gateway", "start", "agent-b", *flags).stdout)["data"]
    assert [row["name"] for row in started["mappings"]] == ["agent-b"]
    assert ctl("gateway", "start", "agent-b", *flags) == snapshot("""\
{"code": "already_exists", "hint": "add agents with: pilotctl gateway map; stop it with: pilotctl gateway stop", "message": "a gateway runs already, at [dir]/agent-a.home/.pilot/gateway.sock", "status": "error"}
--- exit 4 ---
""")
    assert ctl("gateway", "map", "agent-a") == snapshot(
        '{"data": {"local_ip": "127.x.y.2", "name": "agent-a", "pilot_addr": "0:0000.0000.0001", "ports": {"8080": 8080, "8443": 8443}}, "status": "ok"}\n'
    )
    assert ctl.table("gateway", "list") == snapshot("""\
gateway
┏━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━┓
┃ local ip      ┃ agent            ┃ name    ┃ ports     ┃
┡━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━┩
│ 127.x.y.1 │ 0:0000.0000.0002 │ agent-b │ 8080 8443 │
│ 127.x.y.2 │ 0:0000.0000.0001 │ agent-a │ 8080 8443 │
└───────────────┴──────────────────┴─────────┴───────────┘
""")
    assert ctl("gateway", "map", "agent-b", "127.0.0.1") == snapshot("""\
{"code": "already_exists", "hint": "unmap it first", "message": "0:0000.0000.0002 is mapped to 127.x.y.1", "status": "error"}
--- exit 4 ---
""")
    assert ctl.table("gateway", "unmap", "agent-b") == snapshot(
        "unmapped 127.x.y.1, which was 0:0000.0000.0002\n"
    )
    assert ctl.table("gateway", "unmap", "agent-b") == snapshot("""\
--- stderr ---
error: no mapping for 0:0000.0000.0002
hint:  see: pilotctl gateway list
--- exit 3 ---
""")
    assert ctl("gateway", "stop") == snapshot('{"data": {"pid": [pid]}, "status": "ok"}\n')
    assert ctl.table("gateway", "stop") == snapshot("""\
--- stderr ---
error: no gateway answers at [dir]/agent-a.home/.pilot/gateway.sock
hint:  start it with: pilotctl gateway start
--- exit 8 ---
""")


def test_agents_that_cannot_be_mapped_are_a_failure(ctl: Pilotctl) -> None:
    flags = ("--unprivileged", "--subnet", own_subnet(), "--ports", "8080")
    started = ctl.run("gateway", "start", "agent-b", "nobody", *flags)
    report = json.loads(started.stdout)
    assert (started.returncode, report["status"], report["code"]) == (1, "error", "incomplete")
    assert 'nobody: hostname "nobody" not found' in report["message"]
    assert [each["agent"] for each in report["data"]["failed"]] == ["nobody"]
    assert [row["name"] for row in report["data"]["mappings"]] == ["agent-b"]
    # It runs nevertheless.
    listed = json.loads(ctl.run("gateway", "list").stdout)["data"]
    assert (listed["pid"], listed["total"]) == (report["data"]["pid"], 1)
    ctl.run("gateway", "stop")
    shown = ctl.table("gateway", "start", "agent-b", "nobody", *flags)
    assert "agent-b" in shown.partition("--- stderr ---")[0]
    assert "error: the gateway runs, but 1 of the agents are not mapped: nobody: " in shown


def test_a_gateway_that_cannot_start_says_why(ctl: Pilotctl) -> None:
    own = ("--unprivileged", "--subnet", own_subnet())
    assert ctl("gateway", "start", "--subnet", "10.4.0.0") == snapshot("""\
{"code": "invalid_argument", "hint": "subnets look like 10.4.0.0/16", "message": "parse subnet: invalid CIDR address: 10.4.0.0", "status": "error"}
--- exit 2 ---
""")
    assert ctl("gateway", "start", "--ports", "x") == snapshot("""\
{"code": "invalid_argument", "hint": "as in --ports 80,443", "message": "not a port: 'x'", "status": "error"}
--- exit 2 ---
""")
    assert ctl("gateway", "start", *own, "nobody") == snapshot("""\
{"code": "not_found", "hint": "check the spelling; a node that deregisters loses its name, and names of the nameserver last for five minutes", "message": "hostname \\"nobody\\" not found", "status": "error"}
--- exit 3 ---
""")
    assert ctl.table("gateway", "run", *own, "--proxy", "here") == snapshot("""\
--- stderr ---
{"status": "error", "code": "invalid_argument", "message": "not an address: 'here'", "hint": "addresses look like [endpoint] or :9000"}
--- exit 1 ---
""")
