"""The part of the state that is not durable. No clocks here."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.registry.model.rows import Key
    from pilotstack.registry.model.source import Source

#: Seconds for which a signature identifies other connections from its address; old daemons sign a
#: request every 60.
RECENT: Final = 300.0
#: Addresses, and nodes of each, that are remembered; the least recently seen are dropped.
MAX_ADDRESSES: Final = 1 << 14
MAX_NEIGHBOURS: Final = 32
#: Removals that wait, of all nodes and of one.
MAX_REMOVALS: Final = 1 << 18
MAX_TAKEN: Final = 256
#: Seconds during which a message that a poll took is offered on another connection, since the reply
#: may be lost. The slowest client reconnects after 16.
REOFFER: Final = 30.0


class RecentSignatures:
    """Signatures of the last minutes, in bounded memory: when it is full, new ones are refused."""

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, digest: bytes, until: float, now: float) -> bool:
        """Remembers a signature; ``False`` if it was used before, or there is no room."""
        for known, end in list(islice(self._until.items(), 2)):
            # They expire in order of insertion.
            if end <= now:
                del self._until[known]
        if digest in self._until or len(self._until) >= self._limit:
            return False
        self._until[digest] = until
        return True


class Neighbours:
    """Nodes that signed a request lately, by source address."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, OrderedDict[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, host: str, node_id: int, now: float) -> None:
        """Records that a node signed a request from an address."""
        nodes = self._nodes.get(host)
        if nodes is None:
            nodes = self._nodes[host] = OrderedDict()
        nodes[node_id] = now
        nodes.move_to_end(node_id)
        self._nodes.move_to_end(host)
        if len(nodes) > MAX_NEIGHBOURS:
            nodes.popitem(last=False)
        if len(self._nodes) > MAX_ADDRESSES:
            self._nodes.popitem(last=False)

    def at(self, host: str, now: float) -> Iterator[int]:
        """Nodes that signed a request from an address lately."""
        for node_id, when in self._nodes.get(host, {}).items():
            if now - when <= RECENT:
                yield node_id


class Deliveries:
    """Delivery of waiting messages: when each was first given out, and on which connection.

    After a restart everything that was not answered is offered again.
    """

    def __init__(self) -> None:
        self._given: dict[tuple[str, int, int], tuple[float, Source]] = {}

    def take(self, kind: str, to: int, sender: int, source: Source, now: float) -> bool:
        """Whether to give a message out on this connection; if so, that is recorded."""
        if not self.is_due(kind, to, sender, source, now):
            return False
        key = (kind, to, sender)
        first, _ = self._given.get(key, (now, None))
        self._given[key] = (first, source)
        return True

    def is_due(self, kind: str, to: int, sender: int, source: Source, now: float) -> bool:
        """Whether to give a message out on this connection."""
        given = self._given.get((kind, to, sender))
        return given is None or (source is not given[1] and now - given[0] <= REOFFER)

    def is_given(self, kind: str, to: int, sender: int) -> bool:
        """Whether it was given out."""
        return (kind, to, sender) in self._given

    def is_over(self, kind: str, to: int, sender: int, now: float) -> bool:
        """Whether it was given out and will not be again."""
        given = self._given.get((kind, to, sender))
        return given is not None and now - given[0] > REOFFER

    def forget(self, kind: str, to: int, sender: int) -> None:
        """Forgets the delivery of a message."""
        self._given.pop((kind, to, sender), None)


class Removals:
    """Members that were removed from networks, until the nodes that have to know have fetched that.

    Only nodes that are connected are told. Others, and those for whom too much waits, find out by
    their own checks.
    """

    def __init__(self, limit: int = MAX_REMOVALS) -> None:
        self._limit = limit
        self._waiting: dict[int, dict[tuple[int, int], None]] = {}
        self._count = 0

    def note(self, to: int, network_id: int, node_id: int) -> None:
        """Has a node told that another, or itself, is no member any more; 0 means of anything."""
        waiting = self._waiting.get(to, {})
        has_room = self._count < self._limit and len(waiting) < MAX_TAKEN
        if has_room and (network_id, node_id) not in waiting:
            waiting[network_id, node_id] = None
            self._waiting[to] = waiting
            self._count += 1

    def waits_for(self, to: int) -> bool:
        """Whether a node has to be told something."""
        return bool(self._waiting.get(to))

    def take(self, to: int) -> tuple[tuple[int, int], ...]:
        """Networks and nodes that a node is told of, once."""
        taken = tuple(self._waiting.pop(to, {}))
        self._count -= len(taken)
        return taken


@dataclass(slots=True)
class Sweep:
    """Progress of the expiry sweep. Times are the registry's, in seconds."""

    last_call: float = 0.0
    last_pass: float = 0.0
    #: Silence before this does not count.
    grace_from: float = 0.0
    #: Rows that are still to be looked at.
    waiting: Iterator[tuple[str, Key]] = field(default_factory=lambda: iter(()))


@dataclass(frozen=True, slots=True)
class Beacon:
    """A beacon's endpoint, and the source and time of its last announcement."""

    addr: str
    host: str
    seen: float
