"""Hostile frames for a registry's session and for a standby, without sockets, and the invariants
that hold afterwards. As a program it fuzzes for a number of seconds (``make fuzz-registry``)."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.rows import ROW_TYPES
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import framing, lenient, values
from pilotstack.registry.protocol.requests.replication import Frame
from pilotstack.registry.replication.primary import Publisher
from pilotstack.registry.replication.standby import Standby
from pilotstack.registry.replication.standing import Standing
from pilotstack.registry.server.limits import Limits
from pilotstack.registry.server.service import Service
from pilotstack.registry.server.session import Flood, Memory, OutOfMemory, Session, Watch
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import MemoryStore
from pilotstack.registry.storage.term import Term
from tests.support.registry import CHALLENGES, identity, key_text, snapshot_of
from tests.support.registry import NAMES as KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How a session may end.
ENDS = (
    framing.ProtocolError,
    TimeoutError,
    Flood,
    OutOfMemory,
    OSError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
NAMES = ("alice", "bob", "carol")

#: Members that requests read, whatever their type is.
_MEMBERS = (
    *("node_id", "network_id", "public_key", "listen_addr", "hostname", "owner", "signature"),
    *("peer_id", "requester_id", "from_node_id", "to_node_id", "target_node_id", "inviter_id"),
    *("node_a", "node_b", "name", "join_rule", "token", "admin_token", "tags", "justification"),
    *("accept", "public", "new_public_key", "commitment", "recovery_secret", "offset", "limit"),
    *("wait", "lan_addrs", "version", "beacon_id", "addr", "new_owner_id", "rules", "expires_at"),
    *("cluster", "term", "term_proof", "epoch", "seq", "deltas", "invites", "member_tags"),
    *("max_members", "allowed_ports", "description", "expr_policy", "network_admin_token"),
)
_NUMBERS = st.one_of(
    st.integers(-2, 5),
    st.sampled_from([0, 1 << 16, (1 << 16) - 1, 1 << 32, (1 << 32) - 1, 1 << 63, -(1 << 63)]),
    st.floats(allow_nan=False, allow_infinity=False),
)
_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "0", "127.0.0.1:1", "[::1]:1", ":1", "a" * 300, "\x00", "../x", "é" * 70]),
    # More digits than Python converts to a number.
    st.sampled_from(["9" * 5000, ":" + "9" * 5000]),
    st.sampled_from(NAMES).map(key_text),
)
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
_KINDS = st.sampled_from((*sorted(KINDS), "announce_term", "subscribe_replication", "", "no such"))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request with members of any type, some of them signed as they should be."""
    message: dict[str, Any] = draw(st.dictionaries(st.sampled_from(_MEMBERS), _VALUES, max_size=8))
    message["type"] = kind = draw(st.one_of(_KINDS, _VALUES))
    if draw(st.booleans()):
        message["node_id"] = draw(st.integers(0, 4))
    if draw(st.booleans()):
        name = draw(st.sampled_from(NAMES))
        message.setdefault("public_key", key_text(name))
        message.setdefault("listen_addr", "127.0.0.1:1")
        template = CHALLENGES.get(kind, "{type}:{node_id}") if isinstance(kind, str) else ""
        text = template.format_map(_Absent(message))
        message["signature"] = values.encode_base64(identity(name).sign(text.encode()))
    body = json.dumps(message).encode()
    return len(body).to_bytes(4) + body


class _Absent(dict[str, Any]):
    def __missing__(self, name: str) -> int:
        return 0


#: What a connection sends: requests, and bytes that are none.
STREAMS = st.lists(
    st.one_of(
        requests(),
        requests(),
        requests(),
        st.binary(max_size=40),
        st.sampled_from(
            [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\4null", b"PILT\1", b"GET / HTTP"]
        ),
        st.integers(1, 2000).map(lambda depth: _framed(b"[" * depth)),
        st.integers(1, 2000).map(lambda depth: _framed(b'{"a":' * depth)),
    ),
    max_size=12,
)


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


class Pipe(anyio.abc.ByteStream):
    """The registry's end of a connection: gives what is there, and keeps what is sent."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)
        self.sent = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        while self._pieces:
            piece = self._pieces.pop(0)
            if piece[max_bytes:]:
                self._pieces.insert(0, piece[max_bytes:])
            if piece:
                return piece[:max_bytes]
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent += item

    async def send_eof(self) -> None:
        raise AssertionError("nobody half-closes these")

    async def aclose(self) -> None:
        self._pieces.clear()


class Target:
    """A registry that connection after connection attacks."""

    def __init__(self) -> None:
        term = Term(None)
        term.lead()
        self.standing = Standing(term, "replication secret")
        self.ledger = Ledger(State(Policy(salt=b"s" * 32, admin_token="root")), MemoryStore())
        limits = Limits(includes_loopback=True)
        self.service = Service(self.ledger, limits, standing=self.standing)
        self.publisher = Publisher(self.ledger, token="replication secret", standing=self.standing)
        self.ledger.add_sink(self.publisher)
        self.memory = Memory()
        self._free = self.memory._free

    async def attack(self, connections: Sequence[Sequence[bytes]]) -> None:
        """Serves connections one after another and checks what must hold."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.ledger.run)
            for pieces in connections:
                await self._serve(Pipe(pieces))
            tasks.cancel_scope.cancel()
        self.check()

    async def _serve(self, pipe: Pipe) -> None:
        session = Session(
            pipe,
            "203.0.113.7",
            4000,
            service=self.service,
            publisher=self.publisher,
            memory=self.memory,
            watch=Watch(),
        )
        try:
            await session.run()
        except BaseExceptionGroup as group:
            rest = group.split(ENDS)[1]
            if rest is not None:
                raise
        except ENDS:
            pass
        framer = framing.Framer(64 << 20)
        framer.feed(pipe.sent)
        while (body := framer.next_body()) is not None:
            reply = framing.decode(body)
            assert isinstance(reply.get("type"), str), reply
            assert reply.get("error") != "internal error", reply
        assert framer.pending == 0

    def check(self) -> None:
        """Nothing is left behind, and the state is one that can be kept and read again."""
        assert self.memory._free == self._free
        assert self.publisher.standbys == 0
        assert not self.standing.is_replaced
        state = self.ledger.state
        again = snapshot.load(snapshot_of(state), 0.0)
        assert again.nodes == state.nodes
        assert again.claims.groups == state.claims.groups
        assert again.members.groups == state.members.groups
        assert all(math.isfinite(moment) for moment in state.seen.values())


_KEYS = st.one_of(
    st.integers(-1, 5),
    st.tuples(st.integers(-1, 5), st.integers(-1, 5)),
    st.tuples(st.integers(-1, 5), st.text(max_size=70)),
    _VALUES,
)
_ROW = st.one_of(
    st.none(),
    _VALUES,
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.integers(-1, 5),
            "public_key": st.one_of(st.sampled_from(NAMES).map(key_text), _VALUES),
            "name": _TEXTS,
            **dict.fromkeys(("created", "timestamp", "gone_at", "registered", "at"), _NUMBERS),
            **dict.fromkeys(("hostname", "owner", "role", "justification"), _TEXTS),
            **dict.fromkeys(("rules", "expr_policy", "tags", "accept", "inviter_id"), _VALUES),
        },
    ),
)
_CHANGE = st.fixed_dictionaries(
    {"t": st.one_of(st.sampled_from([*ROW_TYPES]), _VALUES), "k": _KEYS, "v": _ROW}
)
#: Frames of a hostile primary after a snapshot of epoch ``e`` and sequence number 0.
PRIMARY = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {
                "type": st.just("replication_delta"),
                "epoch": st.just("e"),
                "changes": st.lists(_CHANGE, min_size=1, max_size=3),
            }
        ),
        st.fixed_dictionaries(
            {"type": st.just("replication_snapshot")},
            optional={
                "snapshot": st.dictionaries(
                    st.sampled_from(["nodes", "networks", "trust_claims", "next_node", "journal"]),
                    _VALUES,
                )
            },
        ),
        st.dictionaries(
            st.sampled_from(["epoch", "seq", "cluster", "term", "text", "changes", "snapshot"]),
            _VALUES,
        ).flatmap(
            lambda rest: st.sampled_from(
                ["replication_delta", "replication_snapshot_end", "heartbeat", "error", ""]
            ).map(lambda kind: {**rest, "type": kind})
        ),
    ),
    max_size=10,
)


def _removed_nodes(frame: dict[str, Any]) -> set[int]:
    """Nodes that a delta removes one by one, as a primary may do with every node it has."""
    changes = frame.get("changes")
    removed = set()
    for change in changes if isinstance(changes, list) else []:
        with suppress(Exception):
            if change["t"] == "nodes" and change["v"] is None:
                removed.add(int(change["k"]))
    return removed


async def follow(frames: Sequence[dict[str, Any]]) -> None:
    """Feeds a standby and checks that what it has can always be kept and read again."""
    source = Target()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.ledger.run)
        for name in NAMES[:2]:
            body = json.dumps({"type": "register", "public_key": key_text(name)}).encode()
            await source._serve(Pipe([_framed(body)]))
        tasks.cancel_scope.cancel()
    ledger = Ledger(State(Policy(is_standby=True)), MemoryStore())
    standing = Standing(Term(None), "replication secret")
    standby = Standby(
        ledger, ("127.0.0.1", 1), token="replication secret", trust=None, standing=standing
    )
    text = b"".join(snapshot.View(source.ledger.state).chunks()).decode()
    await standby._take(Frame(type="replication_snapshot_part", text=text))
    members = source.standing.members
    end = {"type": "replication_snapshot_end", "epoch": "e", "seq": 0, **members}
    await standby._take(lenient.convert(end, Frame))
    removed: set[int] = set()
    for frame in frames:
        whole = {"seq": standby.seq + 1, **members, **frame}
        # What goes wrong is noted and leads to another connection, as in the standby's loop.
        with suppress(Exception):
            await standby._take(lenient.convert(framing.decode(json.dumps(whole).encode()), Frame))
        state = ledger.state
        removed |= _removed_nodes(frame)
        assert state.nodes or removed.issuperset(source.ledger.state.nodes)
        assert snapshot.load(snapshot_of(state), 0.0).nodes == state.nodes
        assert standing.term.cluster == source.standing.term.cluster


def main() -> None:
    """Attacks for so many seconds, with other examples each time; ends with 1 at a finding."""
    logging.getLogger("pilotstack").setLevel(logging.CRITICAL)
    deadline = time.monotonic() + float(sys.argv[1])
    profile = settings(
        max_examples=200,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    connections = 0

    @profile
    @given(st.lists(STREAMS, min_size=1, max_size=4))
    def session(attack: list[list[bytes]]) -> None:
        nonlocal connections
        connections += len(attack)
        anyio.run(Target().attack, attack)

    @profile
    @given(PRIMARY)
    def standby(frames: list[dict[str, Any]]) -> None:
        nonlocal connections
        connections += 1
        anyio.run(follow, frames)

    while time.monotonic() < deadline:
        session()
        standby()
    sys.stdout.write(f"{connections} connections served, no finding\n")


if __name__ == "__main__":
    main()
