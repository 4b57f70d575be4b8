"""``pilotctl top``: what changed between two looks, as lines and as a screen."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from inline_snapshot import snapshot

from pilotstack import sync
from pilotstack.cli.screen import Screen
from pilotstack.cli.text import size
from pilotstack.cli.top import compare, page
from pilotstack.ipc.answers import ConnectionInfo, Info, PeerInfo
from pilotstack.types import Address

if TYPE_CHECKING:
    from tests.support.pilotctl import Pilotctl

COMMAND = Path(sys.executable).with_name("pilotctl")


def connection(number: int, **members: Any) -> ConnectionInfo:
    settings: dict[str, Any] = {
        "state": "ESTABLISHED",
        "remote_addr": Address(0, 2),
        "local_port": 50_000,
        "remote_port": 7,
        "cong_win": 10_000,
        "peer_recv_win": 100_000,
        "max_segment": 1000,
    }
    return ConnectionInfo(id=number, **settings | members)


def info(*connections: ConnectionInfo, **members: Any) -> Info:
    peer = PeerInfo(node_id=2, path="direct", encrypted=True, rtt_ms=12.5, loss=0.01, path_age=90)
    settings: dict[str, Any] = {
        "node_id": 1,
        "address": Address(0, 1),
        "hostname": "agent-a",
        "uptime_secs": 10,
        "peers": 1,
        "connections": len(connections),
        "peer_list": (peer,),
        "conn_list": connections,
        "paths": {"direct": 1, "relay": 0},
    }
    return Info(**settings | members)


BEFORE = info(connection(1, bytes_sent=1000), bytes_sent=5000, pkts_sent=10, dropped={"limited": 1})
NOW = info(
    connection(1, bytes_sent=5000, bytes_recv=200, in_flight=500),
    connection(2, bytes_recv=1 << 21, in_flight=9500),
    connection(3, in_flight=99_500, cong_win=1 << 20),
    connection(4, state="TIME_WAIT"),
    bytes_sent=9000,
    pkts_sent=30,
    dropped={"limited": 2, "unauthentic": 1},
)


def test_rates_are_of_the_time_between_two_looks() -> None:
    look = compare(BEFORE, NOW, 2.0)
    assert [(s.id, s.send_rate, s.recv_rate) for s in look.streams] == [
        (2, 0.0, 1_048_576.0),
        (1, 2000.0, 100.0),
        (3, 0.0, 0.0),
        (4, 0.0, 0.0),
    ]
    assert {s.id: s.limit for s in look.streams} == {
        1: "nothing",
        2: "congestion",
        3: "window",
        4: "nothing",
    }
    totals = look.totals
    assert (totals.send_rate, totals.packets_sent_rate, totals.dropped) == (2000.0, 10.0, 3)


def test_the_first_look_has_rates_of_the_whole_life() -> None:
    look = compare(None, NOW, 10.0)
    assert (look.totals.send_rate, look.streams[0].recv_rate) == (900.0, 209_715.2)


def test_counters_that_began_anew_are_no_negative_rates() -> None:
    look = compare(NOW, BEFORE, 1.0)
    assert look.totals.send_rate == 0
    assert all(s.send_rate >= 0 and s.recv_rate >= 0 for s in look.streams)


@pytest.mark.parametrize("width", [40, 100])
def test_the_screen_fits(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    Screen().print(page(compare(BEFORE, NOW, 2.0)))
    shown = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
    assert all(len(line) <= width for line in shown.splitlines())
    expected = {
        40: snapshot("""\
agent-a 0:0000.0000.0001, up 10s
out 2.0 KiB/s, in 0 B/s
10 packets/s out, 0 in, 3 dropped
1 direct
peers (1)
┏━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━┳━━━━━┓
┃ node ┃ path   ┃ rtt ms ┃ loss ┃ age ┃
┡━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━╇━━━━━┩
│ 2    │ direct │ 12.5   │ 1.0% │ 1m  │
└──────┴────────┴────────┴──────┴─────┘
streams (4)

id         2
peer       0:0000.0000.0002:7
out/s      0 B
in/s       1.0 MiB
rtt ms     0.0
waits for  congestion

id         1
peer       0:0000.0000.0002:7
out/s      2.0 KiB
in/s       100 B
rtt ms     0.0
waits for  nothing

id         3
peer       0:0000.0000.0002:7
out/s      0 B
in/s       0 B
rtt ms     0.0
waits for  window

id         4
peer       0:0000.0000.0002:7
out/s      0 B
in/s       0 B
rtt ms     0.0
waits for  TIME_WAIT
"""),
        100: snapshot("""\
agent-a 0:0000.0000.0001, up 10s
out 2.0 KiB/s, in 0 B/s
10 packets/s out, 0 in, 3 dropped
1 direct
peers (1)
┏━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━┳━━━━━┓
┃ node ┃ path   ┃ rtt ms ┃ loss ┃ age ┃
┡━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━╇━━━━━┩
│ 2    │ direct │ 12.5   │ 1.0% │ 1m  │
└──────┴────────┴────────┴──────┴─────┘
streams (4)
┏━━━━┳━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━━━┓
┃ id ┃ peer               ┃ out/s   ┃ in/s    ┃ rtt ms ┃ waits for  ┃
┡━━━━╇━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━━━┩
│ 2  │ 0:0000.0000.0002:7 │ 0 B     │ 1.0 MiB │ 0.0    │ congestion │
│ 1  │ 0:0000.0000.0002:7 │ 2.0 KiB │ 100 B   │ 0.0    │ nothing    │
│ 3  │ 0:0000.0000.0002:7 │ 0 B     │ 0 B     │ 0.0    │ window     │
│ 4  │ 0:0000.0000.0002:7 │ 0 B     │ 0 B     │ 0.0    │ TIME_WAIT  │
└────┴────────────────────┴─────────┴─────────┴────────┴────────────┘
"""),
    }
    assert shown == expected[width]


def test_programs_get_a_line_for_each_look(agent_a: Pilotctl) -> None:
    with sync.dial("agent-b:7", socket_path=agent_a.environment["PILOT_SOCKET"]) as stream:
        stream.sendall(b"hello")
        lines = agent_a.run("top", "--count", 2, "--interval", "10ms").stdout.splitlines()
    looks = [json.loads(line)["data"] for line in lines]
    assert [look["node"]["hostname"] for look in looks] == ["agent-a", "agent-a"]
    assert any(stream["peer"].endswith(":7") for stream in looks[1]["streams"])
    assert looks[1]["peers"][0]["path"]
    once = json.loads(agent_a.run("top", "--once").stdout)["data"]
    assert once.keys() == {"node", "seconds", "totals", "peers", "streams"}


def test_it_ends_quietly_on_a_terminal(agent_a: Pilotctl) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [COMMAND, "top", "--interval", "10ms"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | agent_a.environment | {"TERM": "xterm", "COLUMNS": "80"},
            start_new_session=True,
        )
        os.close(theirs)
        seen = b""
        while seen.count(b"streams (") < 2:
            seen += screen.read(65_536)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                part = screen.read(65_536)
            except OSError:
                break
            if not part:
                break
            seen += part
        assert process.wait(20) == 130
    # The screen that was there before, and the cursor, are back.
    assert seen.rstrip().endswith((b"\x1b[?25h", b"\x1b[?1049l"))
    assert b"Traceback" not in seen
    assert b"error" not in seen.rpartition(b"streams (")[2]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023.4, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 40, "3072.0 GiB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_a_look_is_json() -> None:
    assert msgspec.json.encode(compare(BEFORE, NOW, 2.0))
