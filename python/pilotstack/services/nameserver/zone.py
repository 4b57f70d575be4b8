"""The records of a nameserver: who has which name until when. No IO, no clock.

A name belongs to the node that took it first, until it gives it up or lets it expire. Whether a
node may take a name at all (membership, hostnames of the registry) is decided before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from pilotstack.services.nameserver.codec import Refused, Unregister
from pilotstack.services.nameserver.records import (
    NameRecord,
    NetworkRecord,
    Record,
    ServiceRecord,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pilotstack.types import Address

    #: What a record is found by: its type, and the name, or where the service is.
    Key = tuple[str, str] | tuple[int, int, Address]

__all__ = ["TTL", "Entry", "Zone"]

#: Seconds for which a record is kept after it was registered last.
TTL: Final = 300.0
#: Records of one node, and of all.
MAX_PER_NODE: Final = 128
MAX_RECORDS: Final = 20_000
#: Services in one answer.
MAX_ANSWER: Final = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, the node that has it, and when it was registered last (Unix seconds)."""

    record: Record
    owner: int
    registered: float


def _key_of(record: Record) -> Key:
    match record:
        case NameRecord(name):
            return "A", name
        case NetworkRecord(name):
            return "N", name
        case ServiceRecord(_, address, network, port):
            return network, port, address


class Zone:
    """All records.

    Args:
        ttl: seconds.
        limit: records in all.
        per_node: records of one node.
    """

    def __init__(
        self, *, ttl: float = TTL, limit: int = MAX_RECORDS, per_node: int = MAX_PER_NODE
    ) -> None:
        self.ttl = ttl
        self._limit = limit
        self._per_node = per_node
        self._entries: dict[Key, Entry] = {}
        #: Addresses that offer a port in a network, the longest-standing first.
        self._services: dict[tuple[int, int], dict[Address, None]] = {}
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> Iterable[Entry]:
        """Everything, for a file."""
        return self._entries.values()

    def _live(self, key: Key, now: float) -> Entry | None:
        entry = self._entries.get(key)
        return entry if entry is not None and now - entry.registered < self.ttl else None

    # Reading

    def find(self, kind: str, name: str, now: float) -> Record | None:
        """The record of a name; ``kind`` is A or N."""
        entry = self._live((kind, name), now)
        return entry.record if entry is not None else None

    def owner(self, kind: str, name: str, now: float) -> int | None:
        """The node that has a name."""
        entry = self._live((kind, name), now)
        return entry.owner if entry is not None else None

    def services(self, network: int, port: int, now: float) -> list[ServiceRecord]:
        """Who offers a port in a network."""
        found = (
            self._live((network, port, at), now) for at in self._services.get((network, port), ())
        )
        records = (entry.record for entry in found if entry is not None)
        return [each for each in islice(records, MAX_ANSWER) if isinstance(each, ServiceRecord)]

    def of(self, owner: int, now: float) -> list[Record]:
        """The records of a node."""
        return [
            entry.record
            for key, entry in self._entries.items()
            if entry.owner == owner and self._live(key, now)
        ]

    # Changing

    def register(self, record: Record, owner: int, now: float) -> None:
        """Takes a record for a node, or keeps it.

        Raises:
            Refused: another node has the name, or there are too many records.
        """
        key = _key_of(record)
        live = self._live(key, now)
        if live is not None and live.owner != owner:
            raise Refused(f'name "{record.name}" is taken')
        if live is None:
            self._remove(key)
            if self._counts[owner] >= self._per_node:
                raise Refused("cannot register more records for this node")
            if len(self) >= self._limit and not self.expire(now):
                raise Refused("too many records: try again later")
            self._counts[owner] += 1
        self._entries[key] = Entry(record, owner, now)
        if isinstance(record, ServiceRecord):
            place = self._services.setdefault((record.network, record.port), {})
            place[record.address] = None

    def unregister(self, what: Unregister, owner: int, now: float) -> None:
        """Gives a node's record up.

        Raises:
            Refused: there is none, or it is another node's.
        """
        key = self._key_of_service(what, owner) if what.kind == "S" else (what.kind, what.name)
        entry = self._live(key, now) if key is not None else None
        if key is None or entry is None:
            raise Refused(f'name "{what.name}" not found')
        if entry.owner != owner:
            raise Refused(f'name "{what.name}" is not yours')
        self._remove(key)

    def _key_of_service(self, what: Unregister, owner: int) -> Key | None:
        for address in self._services.get((what.network, what.port), ()):
            entry = self._entries[what.network, what.port, address]
            if entry.owner == owner and entry.record.name == what.name:
                return what.network, what.port, address
        return None

    def expire(self, now: float) -> int:
        """Forgets records whose time is over. Returns how many."""
        gone = [key for key in self._entries if self._live(key, now) is None]
        for key in gone:
            self._remove(key)
        return len(gone)

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._counts[entry.owner] -= 1
        if not self._counts[entry.owner]:
            del self._counts[entry.owner]
        if isinstance(record := entry.record, ServiceRecord):
            at = self._services[record.network, record.port]
            del at[record.address]
            if not at:
                del self._services[record.network, record.port]
