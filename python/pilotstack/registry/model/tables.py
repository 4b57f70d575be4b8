"""The registry's tables with their indexes: the one place where rows change.

No rules here. Everything goes through :meth:`Tables.put`: requests, undoing them, and replay of a
journal or a replication stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pilotstack.registry.model.rows import (
    ROW_TYPES,
    Change,
    Claim,
    Invite,
    Key,
    KeyInfo,
    Member,
    Network,
    Node,
    Recovery,
    Request,
    Response,
    Retired,
    Rotation,
    Row,
    decode_change,
)
from pilotstack.registry.model.transient import Deliveries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


R = TypeVar("R")
S = TypeVar("S", int, str)


class Rows(dict[int, R]):
    """Rows by id."""

    def assign(self, key: int, row: R | None) -> R | None:
        """Sets or removes a row; the old one."""
        old = self.pop(key, None)
        if row is not None:
            self[key] = row
        return old

    def pairs(self) -> Iterator[tuple[int, R]]:
        """Keys and rows."""
        return iter(self.items())

    def freeze(self) -> Rows[R]:
        """A shallow copy; rows never change."""
        return Rows(self)


class Pairs(Generic[S, R]):
    """Rows by two-part keys, grouped by the first part."""

    __slots__ = ("groups",)
    _NONE: Final[Mapping[Any, Any]] = {}

    def __init__(self) -> None:
        self.groups: dict[int, dict[S, R]] = {}

    def of(self, first: int) -> Mapping[S, R]:
        """The group of ``first``: second parts and rows, in order of insertion."""
        return self.groups.get(first, self._NONE)

    def get(self, key: tuple[int, S]) -> R | None:
        """The row of a key."""
        group = self.groups.get(key[0])
        return None if group is None else group.get(key[1])

    def __contains__(self, key: tuple[int, S]) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def assign(self, key: tuple[int, S], row: R | None) -> R | None:
        """Sets or removes a row; the old one."""
        first, second = key
        group = self.groups.get(first)
        if row is None:
            old = None if group is None else group.pop(second, None)
            if group is not None and not group:
                del self.groups[first]
            return old
        if group is None:
            group = self.groups[first] = {}
        old = group.get(second)
        group[second] = row
        return old

    def pairs(self) -> Iterator[tuple[tuple[int, S], R]]:
        """Keys and rows."""
        for first, group in self.groups.items():
            for second, row in group.items():
                yield (first, second), row

    def freeze(self) -> Pairs[S, R]:
        """A copy as deep as the groups; rows never change."""
        copy: Pairs[S, R] = Pairs()
        copy.groups = {first: group.copy() for first, group in self.groups.items()}
        return copy


class RowTables:
    """The tables, by attribute and by name."""

    def __init__(self) -> None:
        self.nodes: Rows[Node] = Rows()
        self.networks: Rows[Network] = Rows()
        self.retired: Rows[Retired] = Rows()
        self.members: Pairs[int, Member] = Pairs()
        self.claims: Pairs[int, Claim] = Pairs()
        self.requests: Pairs[int, Request] = Pairs()
        self.responses: Pairs[int, Response] = Pairs()
        self.invites: Pairs[int, Invite] = Pairs()
        self.rotations: Pairs[str, Rotation] = Pairs()
        self.keys: Rows[KeyInfo] = Rows()
        self.recoveries: Rows[Recovery] = Rows()
        #: The same by name: :class:`Rows` and :class:`Pairs`, whose keys and rows differ.
        self.tables: dict[str, Any] = {name: getattr(self, name) for name in ROW_TYPES}

    def freeze(self) -> RowTables:
        """A copy of the tables; rows never change."""
        copy = RowTables()
        for name, table in self.tables.items():
            frozen = table.freeze()
            setattr(copy, name, frozen)
            copy.tables[name] = frozen
        return copy


class Tables(RowTables):
    """The tables and their indexes."""

    def __init__(self) -> None:
        super().__init__()
        self.by_key: dict[bytes, int] = {}
        #: Nodes that share their key with an older id. Registries that index keys by their text
        #: left such.
        self.shadowed: set[int] = set()
        self.by_hostname: dict[str, int] = {}
        self.by_network_name: dict[str, int] = {}
        #: Networks other than the backbone, of nodes that are in any.
        self.networks_of: dict[int, tuple[int, ...]] = {}
        #: Ids that their owner may reclaim, if the policy allows it.
        self.departed: dict[str, set[int]] = {}
        self.live_nodes = 0
        #: Rows of ``rotations``.
        self.used_signatures = 0
        #: The next id of a node, which is never reused, and of a network, until all have been used.
        self.next_node = 1
        self.next_network = 1
        self.deliveries = Deliveries()
        #: When each node was last heard of. Not durable.
        self.seen: dict[int, float] = {}
        #: Unix seconds of the last signed registration of each node; not durable, too.
        self.announced: dict[int, int] = {}
        #: Nodes that have been silent for long. Not durable.
        self.offline: set[int] = set()

    def row(self, table: str, key: Key) -> Row | None:
        """The row of a key."""
        found: Row | None = self.tables[table].get(key)
        return found

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Sets a row, or removes it."""
        if table == "nodes":
            assert isinstance(key, int)
            assert row is None or isinstance(row, Node)
            self._put_node(key, row)
            return
        old = self.tables[table].assign(key, row)
        if table == "members":
            assert isinstance(key, tuple)
            self._index_member(key[0], key[1], is_member=row is not None)
        elif table == "networks":
            assert isinstance(key, int)
            self._index_network(key, old, row)
        elif table == "rotations":
            self.used_signatures += (row is not None) - (old is not None)
        elif table in ("requests", "responses"):
            assert isinstance(key, tuple)
            assert isinstance(key[1], int)
            self.deliveries.forget(table, key[0], key[1])

    def _put_node(self, node_id: int, node: Node | None) -> None:
        old = self.nodes.get(node_id)
        if node is None:
            self.nodes.pop(node_id, None)
            self.seen.pop(node_id, None)
            self.announced.pop(node_id, None)
            self.offline.discard(node_id)
        else:
            self.nodes[node_id] = node
        self.next_node = max(self.next_node, node_id + 1)
        if old is not None:
            self._unindex_node(old)
        if old is None or node is None or node.public_key != old.public_key:
            self.shadowed.discard(node_id)
        if node is None:
            return
        if node_id not in self.shadowed:
            self.by_key[node.public_key] = node_id
        if not node.gone_at:
            self.live_nodes += 1
            if node.hostname:
                self.by_hostname[node.hostname] = node_id
        elif node.owner:
            self.departed.setdefault(node.owner, set()).add(node_id)

    def _unindex_node(self, old: Node) -> None:
        node_id = old.node_id
        if self.by_key.get(old.public_key) == node_id:
            del self.by_key[old.public_key]
        if self.by_hostname.get(old.hostname) == node_id:
            del self.by_hostname[old.hostname]
        if not old.gone_at:
            self.live_nodes -= 1
        elif old.owner:
            ids = self.departed[old.owner]
            ids.discard(node_id)
            if not ids:
                del self.departed[old.owner]

    def _index_member(self, network_id: int, node_id: int | str, *, is_member: bool) -> None:
        assert isinstance(node_id, int)
        networks = [n for n in self.networks_of.get(node_id, ()) if n != network_id]
        if is_member:
            networks = sorted([*networks, network_id])
        if networks:
            self.networks_of[node_id] = tuple(networks)
        else:
            self.networks_of.pop(node_id, None)

    def _index_network(self, network_id: int, old: Row | None, new: Row | None) -> None:
        self.next_network = max(self.next_network, network_id + 1)
        if isinstance(old, Network) and self.by_network_name.get(old.name) == network_id:
            del self.by_network_name[old.name]
        if isinstance(new, Network):
            self.by_network_name[new.name] = network_id

    def undo(self, change: Change) -> None:
        """Undoes a change. Changes must be undone in reverse order."""
        self.put(change.table, change.key, change.before)

    def apply_row(self, row: dict[str, object], now: float) -> None:
        """Replays what :func:`~pilotstack.registry.model.rows.encode_change` gave.

        Raises:
            ValueError: it is no such thing.
        """
        table, key, after = decode_change(row)
        self.put(table, key, after)
        if table == "nodes" and after is not None:
            assert isinstance(key, int)
            self.seen[key] = now

    def touch(self, node_id: int, now: float) -> None:
        """Records a sign of life of a node."""
        self.seen[node_id] = now
        self.offline.discard(node_id)

    def share_network(self, a: int, b: int) -> bool:
        """Whether two nodes share a network other than the backbone."""
        first, second = self.networks_of.get(a), self.networks_of.get(b)
        return bool(first and second and not set(first).isdisjoint(second))

    def is_trusted(self, a: int, b: int) -> bool:
        """Whether two nodes trust each other."""
        return (a, b) in self.claims and (b, a) in self.claims

    def may_know(self, a: int, b: int) -> bool:
        """Whether two private nodes may know each other's endpoint."""
        return self.share_network(a, b) or self.is_trusted(a, b)
