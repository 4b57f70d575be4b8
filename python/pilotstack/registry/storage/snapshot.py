"""The snapshot file of whitepaper section 4.1: what the reference registries read and write
(sheet 4.3), and members of our own beside it.

Departed nodes stand apart from ``nodes``, where old registries would take them for live ones.
Members that mean nothing to us are kept and written again.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pilotstack.registry.model import auth
from pilotstack.registry.model.rows import (
    Claim,
    Invite,
    KeyInfo,
    Member,
    Network,
    Node,
    NodeEntry,
    Recovery,
    Request,
    Response,
    Retired,
    Rotation,
)
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pilotstack.registry.model.rows import Change

#: Entries that are encoded at a time, so that other threads get their turn.
_CHUNK: Final = 128
_BACKBONE: Final = "backbone"
#: Between everything else and the CRC-32 of it, in files of ours.
SUM: Final = b',"sum":"'
_CLOSE: Final = b'"}'
_END: Final = len(SUM) + 8 + len(_CLOSE)
#: Octets around the sum that may be wrong without making it something else.
_FORGIVEN: Final = 3

_encode = msgspec.json.Encoder().encode


class View:
    """What a snapshot is made of: copies of the tables, whose rows never change.

    Args:
        state: what is copied; it may go on changing.
        unstored: changes that are not durable yet, oldest first; they are left out.
    """

    def __init__(self, state: State, unstored: Sequence[Change] = ()) -> None:
        self.tables = {name: table.freeze() for name, table in state.tables.items()}
        for change in reversed(unstored):
            self.tables[change.table].assign(change.key, change.before)
        self.seen = state.seen.copy()
        self.networks_of = state.networks_of.copy()
        for change in unstored:
            if change.table == "members" and isinstance(change.key, tuple):
                self.networks_of[int(change.key[1])] = self._networks(int(change.key[1]))
        self.shadowed = state.shadowed.copy()
        self.next_node = state.next_node
        self.next_network = state.next_network
        self.created = state.created
        self.unknown = state.unknown
        self.unknown_rows = state.unknown_rows

    def _networks(self, node_id: int) -> tuple[int, ...]:
        groups = self.tables["members"].groups
        return tuple(sorted(net for net, members in groups.items() if node_id in members))

    def chunks(self, **more: object) -> Iterator[bytes]:
        """The file, piece by piece.

        Args:
            more: members to add.
        """
        head = {
            "next_node": self.next_node,
            # The width of the number in old registries has no room for "none left".
            "next_net": self.next_network & 0xFFFF,
            "next_network": self.next_network,
            **more,
        }
        crc = 0
        for chunk in self._pieces(head):
            crc = zlib.crc32(chunk, crc)
            yield chunk
        yield SUM + b"%08x" % crc + _CLOSE

    def _pieces(self, head: dict[str, object]) -> Iterator[bytes]:
        yield _encode(head | self.unknown)[:-1]
        for name, entries in self._sections():
            yield b',"%b":{' % name.encode()
            is_first = True
            chunk: list[bytes] = []
            for key, value in entries:
                chunk.append(b'"%b":%b' % (key.encode(), value))
                if len(chunk) == _CHUNK:
                    yield (b"" if is_first else b",") + b",".join(chunk)
                    is_first, chunk = False, []
            if chunk:
                yield (b"" if is_first else b",") + b",".join(chunk)
            yield b"}"
        yield b',"trust_pairs":' + _encode(self._trust_pairs())

    def _sections(self) -> Iterator[tuple[str, Iterable[tuple[str, bytes]]]]:
        tables = self.tables
        yield "nodes", self._nodes()
        yield "departed", self._departed()
        yield "networks", self._networks_section()
        yield "retired_networks", ((str(k), b"%d" % row.at) for k, row in tables["retired"].items())
        yield "pub_key_idx", self._keys()
        yield "trust_claims", _flat(tables["claims"], lambda row: _encode(row.created))
        yield "handshake_inbox", _grouped(tables["requests"], "from_node_id")
        yield "handshake_responses", _grouped(tables["responses"], "from_node_id")
        yield "invite_inbox", _grouped(tables["invites"], "network_id")
        yield "used_rotations", _flat(tables["rotations"], lambda row: _encode(row.timestamp))
        yield "key_info", ((str(key), _encode(row)) for key, row in tables["keys"].items())
        yield (
            "recovery_commitments",
            ((str(key), _encode(row.commitment_hash)) for key, row in tables["recoveries"].items()),
        )

    def _nodes(self) -> Iterator[tuple[str, bytes]]:
        times: dict[int, bytes] = {}
        for node_id, node in self.tables["nodes"].items():
            if node.gone_at:
                continue
            second = int(self.seen.get(node_id, 0))
            seen = times.get(second)
            if seen is None:
                seen = times[second] = values.rfc3339(second).encode()
            networks = b",".join(b"%d" % n for n in (0, *self.networks_of.get(node_id, ())))
            more = self.unknown_rows.get(("nodes", node_id))
            yield (
                str(node_id),
                b'%b,"networks":[%b],"last_seen":"%b"%b}'
                % (_encode(node)[:-1], networks, seen, b"," + _encode(more)[1:-1] if more else b""),
            )

    def _departed(self) -> Iterator[tuple[str, bytes]]:
        for node_id, node in self.tables["nodes"].items():
            if node.gone_at:
                yield str(node_id), _encode(node)

    def _keys(self) -> Iterator[tuple[str, bytes]]:
        for node_id, node in self.tables["nodes"].items():
            if node_id not in self.shadowed:
                yield values.encode_base64(node.public_key), b"%d" % node_id

    def _networks_section(self) -> Iterator[tuple[str, bytes]]:
        live = [node_id for node_id, node in self.tables["nodes"].items() if not node.gone_at]
        backbone = {
            "id": 0,
            "name": _BACKBONE,
            "join_rule": "open",
            "members": live,
            "created": values.rfc3339(self.created),
        }
        yield "0", _encode(backbone | self.unknown_rows.get(("networks", 0), {}))
        for network_id, network in self.tables["networks"].items():
            members = self.tables["members"].of(network_id)
            row = msgspec.to_builtins(network)
            row["created"] = values.rfc3339(network.created)
            row["members"] = list(members)
            row["member_roles"] = {str(key): member.role for key, member in members.items()}
            tags = {str(key): list(member.tags) for key, member in members.items() if member.tags}
            policy = {
                name: row.pop(name)
                for name in ("max_members", "allowed_ports", "description")
                if name in row
            }
            row |= {"member_tags": tags} if tags else {}
            row |= {"policy": policy} if policy else {}
            for name in ("rules", "expr_policy"):
                if name in row:
                    row[name] = msgspec.json.decode(row[name])
            more = self.unknown_rows.get(("networks", network_id), {})
            yield str(network_id), _encode(row | more)

    def _trust_pairs(self) -> list[str]:
        claims = self.tables["claims"]
        return [f"{a}:{b}" for (a, b), _ in claims.pairs() if a < b and (b, a) in claims]


def _flat(table: Any, encode: Callable[[Any], bytes]) -> Iterator[tuple[str, bytes]]:
    return ((f"{a}:{b}", encode(row)) for (a, b), row in table.pairs())


def _grouped(table: Any, name: str) -> Iterator[tuple[str, bytes]]:
    for first, group in table.groups.items():
        rows = [
            {
                name: second,
                **msgspec.to_builtins(row),
                "timestamp": values.rfc3339(row.timestamp),
            }
            for second, row in group.items()
        ]
        yield str(first), _encode(rows)


def decode(text: bytes) -> dict[str, Any]:
    """The members of a snapshot file, nodes still as JSON.

    Raises:
        ValueError: it is no snapshot, or not as it was written.
    """
    _check_sum(text.rstrip())
    try:
        rows = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {
            name: _PARTLY[name](raw) if name in _PARTLY else msgspec.json.decode(raw)
            for name, raw in rows.items()
        }
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _check_sum(text: bytes) -> None:
    """That the sum is right, if there is one: whoever changes a file by hand removes it. Damage
    must not make it look as if there was none."""
    end = text[-_END:]
    frame, shown = end[: len(SUM)] + end[-len(_CLOSE) :], end[len(SUM) : -len(_CLOSE)]
    wrong = sum(a != b for a, b in zip(frame, SUM + _CLOSE, strict=False))
    is_ours = len(end) == _END and wrong <= _FORGIVEN
    if is_ours and (wrong or shown != b"%08x" % zlib.crc32(text[:-_END])):
        raise ValueError("its checksum is wrong: it was damaged, or changed by hand")


def load(rows: dict[str, Any], now: float) -> State:
    """The state of a snapshot of ours or of an existing registry.

    Args:
        now: counts as the last time each node was seen.

    Raises:
        ValueError: it is no snapshot.
    """
    if not isinstance(rows, dict) or not isinstance(rows.get("nodes"), dict):
        raise ValueError("there are no nodes in it")
    try:
        loader = Loader(rows, now)
        loader.load()
    except (msgspec.MsgspecError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return loader.state


class Loader:
    """Reads one snapshot into :attr:`state`."""

    def __init__(self, rows: dict[str, Any], now: float) -> None:
        self.state = State()
        self._rows = dict(rows)
        self._now = now

    def load(self) -> None:
        """Reads all sections; what is left is kept for the next snapshot."""
        state, rows = self.state, self._rows
        rows.pop("sum", None)
        for key, value in rows.pop("nodes").items():
            self._node(int(key), value)
        for key, value in self._section("departed"):
            self._put("nodes", int(key), msgspec.convert(value, Node))
        self._keys()
        for key, value in self._section("networks"):
            self._network(int(key), value)
        for key, at in self._section("retired_networks"):
            self._put("retired", int(key), Retired(int(at)))
        for key, created in self._section("trust_claims"):
            self._put("claims", _pair(key), Claim(int(created)))
        for text in rows.pop("trust_pairs", None) or ():
            a, b = _pair(text)
            for pair in ((a, b), (b, a)):
                if a != b and pair not in state.claims:
                    self._put("claims", pair, Claim(int(self._now)))
        self._inboxes()
        for key, timestamp in self._section("used_rotations"):
            node_id, _, digest = key.partition(":")
            self._put("rotations", (int(node_id), digest), Rotation(int(timestamp)))
        for key, value in self._section("key_info"):
            self._put("keys", int(key), msgspec.convert(value, KeyInfo))
        for key, value in self._section("recovery_commitments"):
            self._put("recoveries", int(key), Recovery(str(value)))
        state.next_node = max(state.next_node, int(rows.pop("next_node", 0) or 0))
        width = int(rows.pop("next_net", 0) or 0)
        state.next_network = max(state.next_network, width, int(rows.pop("next_network", 0) or 0))
        self._retire()
        state.seen = dict.fromkeys(state.nodes, self._now)
        state.unknown = rows

    def _retire(self) -> None:
        """Registries that gave no id out again did not note when one became free."""
        state = self.state
        for network_id in range(1, min(state.next_network, 1 << 16)):
            if network_id not in state.networks and network_id not in state.retired:
                self._put("retired", network_id, Retired(int(self._now)))

    def _section(self, name: str) -> Iterable[tuple[str, Any]]:
        return (self._rows.pop(name, None) or {}).items()

    def _put(self, table: str, key: Any, row: Any) -> None:
        self.state.put(table, key, row)

    def _node(self, node_id: int, value: Any) -> None:
        node = self._plain(value) or self._with_more(node_id, value)
        if not 0 < node_id < 1 << 32 or node.node_id != node_id:
            raise ValueError(f"node {node.node_id} under {node_id}")
        if len(node.public_key) != values.KEY_LEN:
            raise ValueError(f"node {node_id} has no key of {values.KEY_LEN} octets")
        state = self.state
        first = state.by_key.get(node.public_key)
        state.put("nodes", node_id, node)
        if first is not None:
            # Registries that knew keys by their text gave one key several ids; the first keeps it.
            state.by_key[node.public_key] = first
            state.shadowed.add(node_id)

    @staticmethod
    def _plain(value: Any) -> Node | None:
        """The quick way, for rows of which every member is known."""
        if not isinstance(value, msgspec.Raw):
            return None
        try:
            entry = _decode_entry(value)
        except msgspec.ValidationError:
            return None
        return Node(*msgspec.structs.astuple(entry)[:_NODE_WIDTH])

    def _with_more(self, node_id: int, value: Any) -> Node:
        row = msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else dict(value)
        more = {name: row.pop(name) for name in [*row] if name not in _NODE_MEMBERS}
        for name in ("networks", "last_seen"):
            row.pop(name, None)
        node = msgspec.convert({name: item for name, item in row.items() if item is not None}, Node)
        if more:
            self.state.unknown_rows["nodes", node_id] = more
            node = self._key_times(node, more)
        return node

    def _key_times(self, node: Node, more: dict[str, Any]) -> Node:
        """What the second generation notes of keys."""
        info = KeyInfo(
            rotated=_time(more.get("key_rotated")),
            rotations=more.get("key_rot_count") or 0,
            expires=_time(more.get("key_expires")),
        )
        if info != KeyInfo():
            self._put("keys", node.node_id, info)
        created = _time(more.get("key_created"))
        return msgspec.structs.replace(node, registered=node.registered or created)

    def _keys(self) -> None:
        """Keys of nodes that are no longer there still belong to their ids."""
        index = self._rows.pop("pub_key_idx", None) or {}
        if isinstance(index, msgspec.Raw):
            if "next_network" in self._rows and not self.state.shadowed:
                # Ours says nothing that the nodes do not.
                return
            index = msgspec.json.decode(index)
        for text, node_id in index.items():
            self.state.next_node = max(self.state.next_node, int(node_id) + 1)
            try:
                key = values.read_key(text)
            except ValueError:
                # Nobody can come with what is no key.
                continue
            node = self.state.nodes.get(node_id)
            if node is not None and node.public_key == key:
                self.state.shadowed.discard(node_id)
                self.state.shadowed |= {self.state.by_key[key]} - {node_id}
                self.state.by_key[key] = node_id
            elif node is None and key not in self.state.by_key:
                gone_at = max(int(self._now), 1)
                self._put("nodes", node_id, Node(node_id=node_id, public_key=key, gone_at=gone_at))

    def _network(self, network_id: int, row: dict[str, Any]) -> None:
        row = dict(row)
        created = _time(row.pop("created", None))
        members = row.pop("members", None) or ()
        if network_id == 0:
            self.state.created = created
            more = {name: row[name] for name in row if name not in {"id", "name", "join_rule"}}
            if more:
                self.state.unknown_rows["networks", 0] = more
            return
        roles, tags = row.pop("member_roles", None) or {}, row.pop("member_tags", None) or {}
        policy = row.pop("policy", None) or {}
        for name in ("rules", "expr_policy"):
            value = row.pop(name, None)
            if isinstance(value, dict):
                value = msgspec.json.encode(value).decode()
            if value:
                row[name] = value
        for name in ("token", "admin_token"):
            token = row.pop(name, None)
            if token:
                salt = values.digest(repr((self._now, network_id, name)).encode())
                row[f"{name}_hash"] = auth.hash_token(token, salt)
        more = {name: row.pop(name) for name in [*row] if name not in _NETWORK_MEMBERS}
        if more:
            self.state.unknown_rows["networks", network_id] = more
        known = {name: policy[name] for name in _POLICY_MEMBERS if policy.get(name)}
        network = msgspec.convert(row | known | {"created": created}, Network)
        if network.network_id != network_id or not 0 < network_id < 1 << 16:
            raise ValueError(f"network {network.network_id} under {network_id}")
        self._put("networks", network_id, network)
        for node_id in members:
            if node_id in self.state.nodes:
                key = str(node_id)
                member = Member(roles.get(key, "member"), tuple(tags.get(key) or ()))
                self._put("members", (network_id, node_id), member)

    def _inboxes(self) -> None:
        put = self._put
        for to, rows in self._section("handshake_inbox"):
            for row in rows or ():
                text, at = row.get("justification") or "", _time(row.get("timestamp"))
                put("requests", (int(to), int(row["from_node_id"])), Request(text, at))
        for to, rows in self._section("handshake_responses"):
            for row in rows or ():
                at = _time(row.get("timestamp"))
                revoked = row.get("revoked") is True
                response = Response(row.get("accept") is True, at, revoked)
                put("responses", (int(to), int(row["from_node_id"])), response)
        for to, rows in self._section("invite_inbox"):
            for row in rows or ():
                invite = Invite(int(row["inviter_id"]), _time(row.get("timestamp")))
                put("invites", (int(to), int(row["network_id"])), invite)


def _pair(text: str) -> tuple[int, int]:
    a, _, b = text.partition(":")
    return int(a), int(b)


def _time(value: object) -> int:
    """A time as RFC 3339 or Unix seconds; 0 if it is neither."""
    if isinstance(value, str):
        try:
            return max(0, int(values.from_rfc3339(value)))
        except ValueError:
            return 0
    return int(value) if isinstance(value, int | float) else 0


_decode_entry = msgspec.json.Decoder(NodeEntry).decode
_NODE_WIDTH: Final = len(msgspec.structs.fields(Node))
#: Sections of a file that are decoded later, entry by entry or not at all.
_PARTLY: Final[dict[str, Callable[[msgspec.Raw], Any]]] = {
    "nodes": msgspec.json.Decoder(dict[str, msgspec.Raw]).decode,
    "pub_key_idx": lambda raw: raw,
}
_POLICY_MEMBERS: Final = ("max_members", "allowed_ports", "description")
_NODE_MEMBERS: Final = frozenset(
    {field.encode_name for field in msgspec.structs.fields(Node)} | {"networks", "last_seen"}
)
_NETWORK_MEMBERS: Final = frozenset(field.encode_name for field in msgspec.structs.fields(Network))
