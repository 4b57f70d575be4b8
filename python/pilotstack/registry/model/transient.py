"""What the registry knows and forgets when it stops. No clocks here."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.rows import (
    Key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.registry.model.rows import Key
    from pilotstack.registry.model.source import Source

#: Seconds for which a signature speaks for other connections from its address: old daemons sign
#: something every 60.
RECENT: Final = 300.0
#: Addresses, and nodes of each, that are remembered; the ones not heard of for longest go first.
MAX_ADDRESSES: Final = 1 << 14
MAX_NEIGHBOURS: Final = 32
#: Seconds in which what a poll took is offered again on another connection: its reply may be lost.
#: The slowest client has reconnected after 16.
REOFFER: Final = 30.0


class Moments:
    """Signatures of the last minutes, in bounded memory: when it is full, nothing new is taken."""

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, digest: bytes, until: float, now: float) -> bool:
        """Remembers a signature; ``False`` if it is known, or there is no room."""
        for known, end in list(self._until.items())[:2]:
            # They end in the order in which they came.
            if end <= now:
                del self._until[known]
        if digest in self._until or len(self._until) >= self._limit:
            return False
        self._until[digest] = until
        return True


class Neighbours:
    """Which nodes signed something lately, by the address that they spoke from."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, OrderedDict[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, host: str, node_id: int, now: float) -> None:
        """Notes that a node signed something at an address."""
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
        """The nodes that did so lately."""
        for node_id, when in self._nodes.get(host, {}).items():
            if now - when <= RECENT:
                yield node_id


class Offers:
    """Which waiting messages were handed out: when first, and on which connections.

    Not durable: after a restart everything that nobody answered is offered anew.
    """

    def __init__(self) -> None:
        self._given: dict[tuple[str, int, int], tuple[float, Source]] = {}

    def take(self, kind: str, to: int, sender: int, source: Source, now: float) -> bool:
        """Whether to hand this message out on this connection; if so, it is noted."""
        if not self.is_due(kind, to, sender, source, now):
            return False
        key = (kind, to, sender)
        first, _ = self._given.get(key, (now, None))
        self._given[key] = (first, source)
        return True

    def is_due(self, kind: str, to: int, sender: int, source: Source, now: float) -> bool:
        """Whether to hand this message out on this connection."""
        given = self._given.get((kind, to, sender))
        return given is None or (source is not given[1] and now - given[0] <= REOFFER)

    def is_given(self, kind: str, to: int, sender: int) -> bool:
        """Whether it was handed out."""
        return (kind, to, sender) in self._given

    def is_over(self, kind: str, to: int, sender: int, now: float) -> bool:
        """Whether it was handed out and is not going to be again."""
        given = self._given.get((kind, to, sender))
        return given is not None and now - given[0] > REOFFER

    def forget(self, kind: str, to: int, sender: int) -> None:
        """Makes a message new again."""
        self._given.pop((kind, to, sender), None)


@dataclass(slots=True)
class Sweep:
    """How far the pass has come. Times are Unix seconds."""

    last_call: float = 0.0
    last_pass: float = 0.0
    #: Before this, silence does not count.
    grace_from: float = 0.0
    waiting: Iterator[tuple[str, Key]] = field(default_factory=lambda: iter(()))


@dataclass(frozen=True, slots=True)
class Beacon:
    """Where a beacon is, and from where that was last said."""

    addr: str
    host: str
    seen: float
