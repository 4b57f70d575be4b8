"""Reads snapshots of this registry and of existing ones into a state.

Members that mean nothing to us are kept for the next snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

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
    from collections.abc import Mapping

    from pilotstack.registry.model.rows import Key, Row

M = TypeVar("M")


class _PolicyEntry(msgspec.Struct, frozen=True):
    """The limits of a network."""

    max_members: int = 0
    allowed_ports: tuple[int, ...] = ()
    description: str = ""


class _NetworkEntry(msgspec.Struct, rename={"network_id": "id"}):
    """A network with its members."""

    network_id: int
    name: str
    join_rule: str = "open"
    created: object = None
    token_hash: str = ""
    admin_token_hash: str = ""
    #: Tokens in clear text, as other registries keep them.
    token: str = ""
    admin_token: str = ""
    enterprise: bool = False
    #: Objects, or their JSON text.
    rules: object = None
    expr_policy: object = None
    members: tuple[int, ...] = ()
    member_roles: dict[str, str] = {}
    member_tags: dict[str, tuple[str, ...] | None] = {}
    policy: dict[str, object] = {}
    max_members: int = 0
    allowed_ports: tuple[int, ...] = ()
    description: str = ""


class _RequestEntry(msgspec.Struct):
    from_node_id: int
    justification: str | None = ""
    timestamp: object = None


class _ResponseEntry(msgspec.Struct):
    from_node_id: int
    accept: bool = False
    timestamp: object = None
    revoked: bool = False


class _InviteEntry(msgspec.Struct):
    network_id: int
    inviter_id: int
    timestamp: object = None


class _KeyTimes(msgspec.Struct, rename={"created": "key_created"}):
    """What second-generation registries note of a node's key."""

    created: object = None
    rotated: object = msgspec.field(default=None, name="key_rotated")
    rotations: int | None = msgspec.field(default=0, name="key_rot_count")
    expires: object = msgspec.field(default=None, name="key_expires")


class Loader:
    """Reads one snapshot into :attr:`state`.

    Args:
        rows: its members; the rows of nodes and the index of keys may still be JSON.
        now: counts as the time of everything that has none.
    """

    def __init__(self, rows: Mapping[str, object], now: float) -> None:
        self.state = State()
        self._rows = dict(rows)
        self._now = now

    def load(self) -> None:
        """Reads all sections and keeps what is left for the next snapshot."""
        self._rows.pop("sum", None)
        # Of a second-generation registry; it would be wrong in the next snapshot.
        self._rows.pop("checksum", None)
        self._nodes()
        self._keys()
        self._networks()
        self._trust()
        self._inboxes()
        self._key_history()
        self._counters()
        self._retire()
        state = self.state
        state.seen = dict.fromkeys(state.nodes, self._now)
        state.unknown = self._rows

    def _section(self, name: str, kind: type[M]) -> M:
        value = self._rows.pop(name, None)
        return msgspec.convert({} if value is None else value, kind, strict=False)

    def _put(self, table: str, key: Key, row: Row) -> None:
        self.state.put(table, key, row)

    def _nodes(self) -> None:
        nodes = self._rows.pop("nodes", None)
        if not isinstance(nodes, dict):
            raise ValueError("there are no nodes in it")
        for key, value in nodes.items():
            self._node(int(key), value)
        for key, node in self._section("departed", dict[str, Node]).items():
            self._put("nodes", int(key), node)

    def _node(self, node_id: int, value: object) -> None:
        node = _plain_node(value) or self._node_with_more(node_id, value)
        if not 0 < node_id < 1 << 32 or node.node_id != node_id:
            raise ValueError(f"node {node.node_id} under {node_id}")
        if len(node.public_key) != values.KEY_LEN:
            raise ValueError(f"node {node_id} has no key of {values.KEY_LEN} bytes")
        state = self.state
        first = state.by_key.get(node.public_key)
        state.put("nodes", node_id, node)
        if first is not None:
            # Registries that index keys by their text gave one key several ids; the first keeps it.
            state.by_key[node.public_key] = first
            state.shadowed.add(node_id)

    def _node_with_more(self, node_id: int, value: object) -> Node:
        row = _object(value)
        more = {name: row.pop(name) for name in [*row] if name not in _NODE_MEMBERS}
        for name in ("networks", "last_seen"):
            row.pop(name, None)
        node = msgspec.convert(_without_nulls(row), Node)
        if not more:
            return node
        self.state.unknown_rows["nodes", node_id] = more
        times = msgspec.convert(more, _KeyTimes)
        info = KeyInfo(
            rotated=_time(times.rotated),
            rotations=times.rotations or 0,
            expires=_time(times.expires),
        )
        if info != KeyInfo():
            self._put("keys", node.node_id, info)
        return msgspec.structs.replace(node, registered=node.registered or _time(times.created))

    def _keys(self) -> None:
        """Reads the index of keys, which also holds keys of nodes that are gone."""
        index = self._rows.pop("pub_key_idx", None) or {}
        if isinstance(index, msgspec.Raw):
            if "next_network" in self._rows and not self.state.shadowed:
                # Ours holds nothing that the nodes do not say.
                return
            index = msgspec.json.decode(index)
        for text, node_id in msgspec.convert(index, dict[str, int], strict=False).items():
            self.state.next_node = max(self.state.next_node, node_id + 1)
            try:
                key = values.read_key(text)
            except ValueError:
                # No client can present what is no key.
                continue
            self._key(key, node_id)

    def _key(self, key: bytes, node_id: int) -> None:
        state = self.state
        node = state.nodes.get(node_id)
        if node is not None and node.public_key == key:
            state.shadowed.discard(node_id)
            state.shadowed |= {state.by_key[key]} - {node_id}
            state.by_key[key] = node_id
        elif node is None and key not in state.by_key:
            gone_at = max(int(self._now), 1)
            self._put("nodes", node_id, Node(node_id=node_id, public_key=key, gone_at=gone_at))

    def _networks(self) -> None:
        for key, row in self._section("networks", dict[str, dict[str, object]]).items():
            if int(key) == 0:
                self._backbone(row)
            else:
                self._network(int(key), row)
        for key, at in self._section("retired_networks", dict[str, int]).items():
            self._put("retired", int(key), Retired(at))

    def _backbone(self, row: dict[str, object]) -> None:
        self.state.created = _time(row.get("created"))
        known = {"id", "name", "join_rule", "created", "members"}
        if more := {name: row[name] for name in row if name not in known}:
            self.state.unknown_rows["networks", 0] = more

    def _network(self, network_id: int, row: dict[str, object]) -> None:
        if more := {name: row[name] for name in row if name not in _NETWORK_MEMBERS}:
            self.state.unknown_rows["networks", network_id] = more
        entry = msgspec.convert(_without_nulls(row), _NetworkEntry)
        if entry.network_id != network_id or not 0 < network_id < 1 << 16:
            raise ValueError(f"network {entry.network_id} under {network_id}")
        policy = msgspec.convert(_without_nulls(entry.policy), _PolicyEntry)
        network = Network(
            network_id=network_id,
            name=entry.name,
            join_rule=entry.join_rule,
            created=_time(entry.created),
            token_hash=self._hash(network_id, "token", entry.token) or entry.token_hash,
            admin_token_hash=self._hash(network_id, "admin_token", entry.admin_token)
            or entry.admin_token_hash,
            enterprise=entry.enterprise,
            max_members=policy.max_members or entry.max_members,
            allowed_ports=policy.allowed_ports or entry.allowed_ports,
            description=policy.description or entry.description,
            rules=_json_text(entry.rules),
            expr_policy=_json_text(entry.expr_policy),
        )
        self._put("networks", network_id, network)
        for node_id in entry.members:
            if node_id in self.state.nodes:
                key = str(node_id)
                tags = entry.member_tags.get(key) or ()
                member = Member(entry.member_roles.get(key, "member"), tags)
                self._put("members", (network_id, node_id), member)

    def _hash(self, network_id: int, name: str, token: str) -> str:
        salt = values.digest(repr((self._now, network_id, name)).encode())
        return auth.hash_token(token, salt) if token else ""

    def _trust(self) -> None:
        for key, created in self._section("trust_claims", dict[str, int]).items():
            self._put("claims", _pair(key), Claim(created))
        texts = self._rows.pop("trust_pairs", None) or ()
        for text in msgspec.convert(texts, tuple[str, ...]):
            a, b = _pair(text)
            for pair in ((a, b), (b, a)):
                if a != b and pair not in self.state.claims:
                    self._put("claims", pair, Claim(int(self._now)))

    def _inboxes(self) -> None:
        requests = self._section("handshake_inbox", dict[str, tuple[_RequestEntry, ...] | None])
        for to, asked in requests.items():
            for request in asked or ():
                row = Request(request.justification or "", _time(request.timestamp))
                self._put("requests", (int(to), request.from_node_id), row)
        responses = self._section(
            "handshake_responses", dict[str, tuple[_ResponseEntry, ...] | None]
        )
        for to, answered in responses.items():
            for entry in answered or ():
                response = Response(entry.accept, _time(entry.timestamp), entry.revoked)
                self._put("responses", (int(to), entry.from_node_id), response)
        invites = self._section("invite_inbox", dict[str, tuple[_InviteEntry, ...] | None])
        for to, invited in invites.items():
            for invite in invited or ():
                row_of_invite = Invite(invite.inviter_id, _time(invite.timestamp))
                self._put("invites", (int(to), invite.network_id), row_of_invite)

    def _key_history(self) -> None:
        for key, timestamp in self._section("used_rotations", dict[str, int]).items():
            node_id, _, digest = key.partition(":")
            self._put("rotations", (int(node_id), digest), Rotation(timestamp))
        for key, info in self._section("key_info", dict[str, KeyInfo]).items():
            self._put("keys", int(key), info)
        for key, text in self._section("recovery_commitments", dict[str, str]).items():
            self._put("recoveries", int(key), Recovery(text))

    def _counters(self) -> None:
        state = self.state
        state.next_node = max(state.next_node, self._counter("next_node"))
        # Old registries have 16 bits for the next id, which do not hold "none left".
        state.next_network = max(
            state.next_network, self._counter("next_net"), self._counter("next_network")
        )

    def _counter(self, name: str) -> int:
        return msgspec.convert(self._rows.pop(name, None) or 0, int, strict=False)

    def _retire(self) -> None:
        """Registries that never reuse the ids of networks do not note when one became free."""
        state = self.state
        for network_id in range(1, min(state.next_network, 1 << 16)):
            if network_id not in state.networks and network_id not in state.retired:
                self._put("retired", network_id, Retired(int(self._now)))


def _plain_node(value: object) -> Node | None:
    """The quick way, for rows of which every member is known."""
    if not isinstance(value, msgspec.Raw):
        return None
    try:
        entry = _decode_entry(value)
    except msgspec.ValidationError:
        return None
    return Node(*msgspec.structs.astuple(entry)[:_NODE_WIDTH])


def _object(value: object) -> dict[str, object]:
    """An object that may still be JSON, as a copy."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value, type=dict[str, object])
    return dict(msgspec.convert(value, dict[str, object]))


def _without_nulls(row: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if value is not None}


def _json_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else ""


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


def _names_of(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind))


_decode_entry = msgspec.json.Decoder(NodeEntry).decode
_NODE_WIDTH: Final = len(msgspec.structs.fields(Node))
_NODE_MEMBERS: Final = _names_of(Node) | {"networks", "last_seen"}
_NETWORK_MEMBERS: Final = _names_of(_NetworkEntry)
