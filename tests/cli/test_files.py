"""Files, messages and events, as they are typed and shown. Each test goes on where the one before it
ended."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from inline_snapshot import snapshot
from tests.support.pilotctl import Pilotctl

from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VARIABLE = (
    (r"\d{8}-\d{6}\.\d{3}-\d{6}", "[stamp]"),
    (r"\b[0-9a-f]{32}\b", "[id]"),
    (r"in \d+\.\ds \(\d+\.\d MiB/s\)", "in [seconds] ([rate])"),
    (r'"(elapsed_ms|throughput_mbps|bytes_per_second)": [\d.]+', r'"\1": [number]'),
    (r"/\S*/pytest-\S*?/(?=report)", "[tmp]/"),
)


@pytest.fixture(scope="module")
def public_network() -> Iterator[Network]:
    with Network() as network:
        for name in ("agent-a", "agent-b"):
            network.start(name)
        yield network


@pytest.fixture
def sender(public_network: Network) -> Pilotctl:
    return replace(Pilotctl.of(public_network, "agent-a"), replaced=_VARIABLE)


@pytest.fixture
def receiver(public_network: Network) -> Pilotctl:
    return replace(Pilotctl.of(public_network, "agent-b"), replaced=_VARIABLE)


def test_nothing_came_yet(receiver: Pilotctl) -> None:
    assert receiver("received") == snapshot(
        '{"data": {"dir": "[dir]/agent-b/received", "files": [], "shown": 0, "total": 0}, "status": "ok"}\n'
    )
    assert receiver("inbox") == snapshot(
        '{"data": {"dir": "[dir]/agent-b/inbox", "messages": [], "shown": 0, "total": 0}, "status": "ok"}\n'
    )
    assert receiver.table("received") == snapshot("no files\n")
    assert receiver.table("inbox") == snapshot("no messages\n")


def test_files_are_sent_and_listed(sender: Pilotctl, receiver: Pilotctl, tmp_path: Path) -> None:
    file = tmp_path / "report.txt"
    file.write_text("the report")
    assert sender("send-file", "agent-b", file) == snapshot(
        '{"data": {"bytes": 10, "bytes_per_second": [number], "bytes_resumed": 0, "bytes_sent": 10, "destination": "0:0000.0000.0002", "elapsed_ms": [number], "filename": "report.txt", "sha256": "14e4cce86788499d03144f70ab24ca83d1abe97d55153c71ee1df55c5296c1f9", "throughput_mbps": [number], "transport": "bulk", "verified": true}, "status": "ok"}\n'
    )
    assert sender.table("send-file", "agent-b", file, "--name", "a [red] name") == snapshot(
        "a [red] name: 10 bytes in [seconds] ([rate])\n"
    )
    assert receiver.table("received") == snapshot("""\
files in [dir]/agent-b/received
┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━┓
┃ name                                    ┃ bytes ┃ from             ┃ received             ┃
┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━┩
│ a [red] name-[stamp] │ 10    │ 0:0000.0000.0001 │ [time] │
│ report-[stamp].txt   │ 10    │ 0:0000.0000.0001 │ [time] │
└─────────────────────────────────────────┴───────┴──────────────────┴──────────────────────┘
""")
    assert sender.table("send-file", "agent-b", tmp_path / "report.pdf") == snapshot("""\
--- stderr ---
error: file not found: [tmp]/report.pdf
hint:  check the spelling
--- exit 3 ---
""")
    assert receiver.table("received", "--clear") == snapshot("""\
cleared          2
cleared_partial  0
remaining        0
""")


def test_messages_are_sent_and_read(sender: Pilotctl, receiver: Pilotctl) -> None:
    assert sender("send-message", "agent-b", "--data", "hello\x1b[2J\nagent") == snapshot(
        '{"data": {"ack": "ACK TEXT 15 bytes", "bytes": 15, "message_id": "[id]", "reused": false, "seq": 0, "tagged": true, "target": "0:0000.0000.0002", "to": "0:0000.0000.0002", "type": "text"}, "status": "ok"}\n'
    )
    assert sender.table("send-message", "agent-b", "--data", "x" * 300) == snapshot("""\
target      0:0000.0000.0002
to          0:0000.0000.0002
type        text
bytes       300
seq         0
reused      False
tagged      True
ack         ACK TEXT 300 bytes
message_id  [id]
""")
    assert receiver.table("inbox") == snapshot("""\
TEXT-[stamp]  0:0000.0000.0001  300 bytes  [time]
  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
xx...

TEXT-[stamp]  0:0000.0000.0001  15 bytes  [time]
  hello\\x1b[2J
  agent

""")
    assert receiver.table("inbox", "--from", "0:0000.0000.0009") == snapshot("no messages\n")
    assert receiver.table("inbox", "TEXT-1") == snapshot("""\
--- stderr ---
error: no message 'TEXT-1'
hint:  see: pilotctl inbox
--- exit 3 ---
""")
    assert receiver("inbox", "--clear") == snapshot(
        '{"data": {"cleared": 2, "remaining": 0}, "status": "ok"}\n'
    )


def test_a_subscription_says_when_it_is_ready(sender: Pilotctl) -> None:
    arguments = ("--no-json", "subscribe", "agent-b", "news", "--count", "1")
    with subprocess.Popen(
        [sys.executable, "-m", "pilotstack", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | sender.environment,
    ) as subscriber:
        assert subscriber.stderr is not None
        assert subscriber.stderr.readline() == "subscribed to news at 0:0000.0000.0002\n"
        sender("publish", "agent-b", "news", "--data", "hello")
        assert subscriber.communicate(timeout=40) == ("news  hello\n", "")


def test_events_are_published(sender: Pilotctl) -> None:
    assert sender("publish", "agent-b", "news", "--data", "hello") == snapshot(
        '{"data": {"bytes": 5, "confirmed": true, "events": 1, "target": "0:0000.0000.0002", "topic": "news"}, "status": "ok"}\n'
    )
    assert sender.table("publish", "agent-b", "news") == snapshot("""\
--- stderr ---
error: --data is required
hint:  or --lines, but not both
--- exit 2 ---
""")
    assert sender.table(
        *("subscribe", "agent-b", "none", "--count", "1", "--timeout", "100ms")
    ) == snapshot("""\
--- stderr ---
subscribed to none at 0:0000.0000.0002
error: no event came in time
hint:  raise --timeout
--- exit 7 ---
""")
