"""A primary and a standby of one registry, without sockets: their frames are passed by hand."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pilotstack.daemon.identity import Identity
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import lenient, values
from pilotstack.registry.protocol.requests.replication import Frame
from pilotstack.registry.replication.primary import Publisher
from pilotstack.registry.replication.standby import Standby
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import MemoryStore
from pilotstack.registry.storage.term import Term
from tests.support.registries import signed
from tests.support.registry import apply

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.registry.model.rows import Change


def registered(state: State, number: int) -> tuple[Change, ...]:
    identity = Identity.generate()
    key = values.encode_base64(identity.public_key)
    request = signed(
        identity,
        f"register:127.0.0.1:{number}:{key}",
        type="register",
        public_key=key,
        listen_addr=f"127.0.0.1:{number}",
        hostname=f"node-{number}",
    )
    return apply(state, request, Source("127.0.0.1", 1), 0.0).changes


def body(frame: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(frame[4:])
    return message


class Pair:
    """A primary's publisher and a standby's ledger, with the frames passed by hand."""

    def __init__(self, term: Path | None = None) -> None:
        self.state = State(Policy(salt=os.urandom(32)))
        self.publisher = Publisher(Ledger(self.state, MemoryStore()), token="secret")
        self.copy = Ledger(State(Policy(is_standby=True)), MemoryStore())
        self.standby = Standby(
            self.copy,
            ("127.0.0.1", 1),
            token="secret",
            trust=None,
            standing=Standing(Term(term), "secret"),
        )

    def change(self, number: int) -> dict[str, Any]:
        self.publisher.publish(registered(self.state, number))
        frames = self.publisher.log.since(self.publisher.log.epoch, self.publisher.log.seq - 1)
        assert frames is not None
        return body(frames[-1])

    def snapshot(self, **members: object) -> list[dict[str, Any]]:
        text = b"".join(snapshot.View(self.state).chunks()).decode()
        parts = [text[at : at + 100] for at in range(0, len(text), 100)]
        log = self.publisher.log
        end = {"epoch": log.epoch, "seq": log.seq, "term": 0, **members}
        return [
            *({"type": "replication_snapshot_part", "text": part} for part in parts),
            {"type": "replication_snapshot_end", **end},
        ]

    async def take(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            await self.standby._take(lenient.convert(frame, Frame))

    @property
    def names(self) -> set[str]:
        return set(self.copy.state.by_hostname)
