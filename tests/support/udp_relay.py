"""A UDP relay between two daemons that can record, drop, duplicate and reorder.

Each side has a public port that stands for it: what arrives at B's public port comes from A and
leaves for B from A's public port, so both daemons see the relay's addresses only. Runs as a process
of its own: ``python -m tests.support.udp_relay JSON`` prints one JSON line with the two public
ports, then takes the two private endpoints as one JSON line on stdin, and reports its counters
when stdin closes.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
from typing import BinaryIO

BATCH = 64
HELD_FOR = 3  # datagrams that overtake a held one
IDLE_RELEASE_S = 0.005


class Direction:
    """Datagrams that arrive at ``inbound`` leave from ``outbound`` for ``target``."""

    def __init__(
        self,
        inbound: socket.socket,
        outbound: socket.socket,
        target: tuple[str, int],
        rng: random.Random,
        rates: dict[str, float],
        capture: BinaryIO | None,
    ) -> None:
        self.inbound = inbound
        self.outbound = outbound
        self.target = target
        self.rng = rng
        self.rates = rates
        self.capture = capture
        self.held: list[tuple[int, bytes]] = []
        self.counters = {"forwarded": 0, "dropped": 0, "duplicated": 0, "reordered": 0}

    def drain(self) -> None:
        for _ in range(BATCH):
            try:
                datagram = self.inbound.recv(65535)
            except BlockingIOError:
                return
            self.pass_on(datagram)

    def pass_on(self, datagram: bytes) -> None:
        if self.capture is not None:
            self.capture.write(datagram)
        draw = self.rng.random
        if draw() < self.rates["drop"]:
            self.counters["dropped"] += 1
            return
        if draw() < self.rates["reorder"]:
            self.counters["reordered"] += 1
            self.held.append((HELD_FOR, datagram))
            return
        self.send(datagram)
        if draw() < self.rates["duplicate"]:
            self.counters["duplicated"] += 1
            self.send(datagram)
        self.held = [(left - 1, waiting) for left, waiting in self.held]
        while self.held and self.held[0][0] <= 0:
            self.send(self.held.pop(0)[1])

    def release(self) -> None:
        for _, datagram in self.held:
            self.send(datagram)
        self.held.clear()

    def send(self, datagram: bytes) -> None:
        self.counters["forwarded"] += 1
        self.outbound.sendto(datagram, self.target)


def public_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind(("127.0.0.1", 0))
    return sock


def main() -> None:
    params = json.loads(sys.argv[1])
    rates = {key: float(params.get(key, 0)) for key in ("drop", "duplicate", "reorder")}
    public_a, public_b = public_socket(), public_socket()
    ports = {"a": public_a.getsockname()[1], "b": public_b.getsockname()[1]}
    print(json.dumps(ports), flush=True)
    private = json.loads(sys.stdin.readline())
    for sock in (public_a, public_b):
        sock.setblocking(False)

    capture = open(params["capture"], "wb") if "capture" in params else None  # noqa: SIM115
    rng = random.Random(params.get("seed", 1))
    to_b = Direction(public_b, public_a, ("127.0.0.1", private["b"]), rng, rates, capture)
    to_a = Direction(public_a, public_b, ("127.0.0.1", private["a"]), rng, rates, capture)
    selector = selectors.DefaultSelector()
    selector.register(public_b, selectors.EVENT_READ, to_b)
    selector.register(public_a, selectors.EVENT_READ, to_a)
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    while True:
        is_holding = bool(to_a.held or to_b.held)
        ready = selector.select(IDLE_RELEASE_S if is_holding else None)
        if not ready:
            to_a.release()
            to_b.release()
        for key, _ in ready:
            if key.data is None:
                if capture is not None:
                    capture.close()
                print(json.dumps({"to_a": to_a.counters, "to_b": to_b.counters}), flush=True)
                return
            key.data.drain()


if __name__ == "__main__":
    main()
