"""Two agents connected through the recording, impairing UDP relay."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.testing import Network, Node

ROOT = Path(__file__).parents[2]


@contextmanager
def relayed_pair(
    network: Network, **params: object
) -> Iterator[tuple[Node, Node, list[dict[str, dict[str, int]]]]]:
    """The agents, and a list that holds the relay's counters after the block."""
    relay = subprocess.Popen(
        [sys.executable, "-m", "tests.support.udp_relay", json.dumps(params, default=str)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert relay.stdin is not None
    assert relay.stdout is not None
    counters: list[dict[str, dict[str, int]]] = []
    try:
        ports = json.loads(relay.stdout.readline())
        nodes = [
            network.start(f"agent-{side}", "--endpoint", f"127.0.0.1:{ports[side]}", "--beacon", "")
            for side in "ab"
        ]
        private = [int(node.tunnel.rpartition(":")[2]) for node in nodes]
        relay.stdin.write(json.dumps(dict(zip("ab", private, strict=True))) + "\n")
        relay.stdin.flush()
        yield nodes[0], nodes[1], counters
        relay.stdin.close()
        counters.append(json.loads(relay.stdout.readline()))
    finally:
        relay.kill()
        relay.wait()
        relay.stdout.close()
