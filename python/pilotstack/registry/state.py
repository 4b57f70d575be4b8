"""The registry as a pure state machine: no sockets, files or clocks.

:func:`apply` takes a request and gives a reply and the changes that must be durable before the
reply is sent. A change holds the state before it, so that one that cannot be stored is undone.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pilotstack.registry import messages
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.registry.messages import Message

MAX_NODES = 1_000_000
MAX_HOSTNAME = 63
HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
RESERVED = frozenset({"localhost", "backbone", "broadcast"})


class Denied(Exception):
    """The request is refused; the text goes to the client."""


@dataclass(frozen=True, slots=True)
class Node:
    """A registered node."""

    node_id: int
    public_key: bytes
    endpoint: str = ""
    hostname: str = ""
    owner: str = ""
    version: str = ""
    public: bool = False
    networks: tuple[int, ...] = (0,)
    lan_addrs: tuple[str, ...] = ()
    last_seen: float = 0.0
    #: Its last registration was signed; unsigned ones may not change it any more.
    is_signed: bool = False
    #: It said good-bye; id and key stay bound to each other.
    is_gone: bool = False

    @property
    def address(self) -> str:
        """The address on the backbone."""
        return str(Address(0, self.node_id))


@dataclass(frozen=True, slots=True)
class Change:
    """A node before and after; ``None`` before it existed."""

    before: Node | None
    after: Node


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request led to."""

    reply: Message
    changes: tuple[Change, ...] = ()


@dataclass(slots=True)
class Source:
    """The connection that a request came on."""

    host: str
    port: int
    #: Endpoints of existing nodes that wait for a signed request on this connection.
    pending: dict[int, str] = field(default_factory=dict)


class State:
    """All nodes and their indexes."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.by_key: dict[bytes, int] = {}
        self.by_hostname: dict[str, int] = {}
        self.next_node = 1

    def put(self, node: Node) -> None:
        """Adds or replaces a node."""
        self.remove(node.node_id)
        self.nodes[node.node_id] = node
        self.by_key[node.public_key] = node.node_id
        if node.hostname and not node.is_gone:
            self.by_hostname[node.hostname] = node.node_id
        self.next_node = max(self.next_node, node.node_id + 1)

    def remove(self, node_id: int) -> None:
        """Forgets a node; its id is not used again."""
        old = self.nodes.pop(node_id, None)
        if old is not None:
            self.by_key.pop(old.public_key, None)
            if self.by_hostname.get(old.hostname) == node_id:
                del self.by_hostname[old.hostname]

    def undo(self, change: Change) -> None:
        """Takes a change back. Changes must be undone in reverse order."""
        if change.before is None:
            self.remove(change.after.node_id)
        else:
            self.put(change.before)

    def live(self, node_id: int) -> Node:
        """A node that is registered now.

        Raises:
            Denied: there is none.
        """
        node = self.nodes.get(node_id)
        if node is None or node.is_gone:
            raise Denied(f"node {node_id}: node not found")
        return node


def check_hostname(name: str) -> str:
    """Why a hostname cannot be used, or an empty string."""
    if len(name.encode()) > MAX_HOSTNAME:
        return f"hostname too long (max {MAX_HOSTNAME} chars)"
    if not HOSTNAME.fullmatch(name):
        return "hostname must be lowercase alphanumeric with hyphens, start/end with alphanumeric"
    return f'hostname "{name}" is reserved' if name in RESERVED else ""


def verify(node: Node, message: Message, challenge: str) -> None:
    """Checks the request's signature (sheet 2.1).

    Raises:
        Denied: it is missing, malformed or wrong.
    """
    signature = messages.text(message, "signature")
    if not signature:
        raise Denied("signature required for authenticated node")
    verify_key(node.public_key, signature, challenge)


def verify_key(public_key: bytes, signature: str, challenge: str) -> None:
    """As :func:`verify`, for a key that may not be registered."""
    try:
        octets = messages.decode_base64(signature, messages.SIGNATURE_LEN)
    except ValueError as error:
        raise Denied(f"invalid signature encoding: {error}") from error
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(octets, challenge.encode())
    except (InvalidSignature, ValueError) as error:
        raise Denied("signature verification failed") from error


def endpoint_of(listen_addr: str, source: Source) -> str:
    """Where the node is: what it says if that is a public address or a name, else the address its
    request came from with the port it says."""
    host, colon, port = listen_addr.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        return join(source.host, str(source.port))
    host = host.strip("[]")
    try:
        is_usable = ipaddress.ip_address(host).is_global
    except ValueError:
        is_usable = bool(host)
    return join(host if is_usable else source.host, port)


def join(host: str, port: str) -> str:
    """``host:port``, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def apply(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Answers one request and changes ``state`` accordingly.

    Args:
        now: Unix seconds.
    """
    kind = messages.text(message, "type")
    handler = HANDLERS.get(kind)
    if handler is None:
        return Outcome({"type": "error", "error": f'unknown message type: "{kind[:64]}"'})
    try:
        outcome = handler(state, message, source, now)
    except Denied as denied:
        return Outcome({"type": "error", "error": str(denied)})
    for change in outcome.changes:
        state.put(change.after)
    outcome.reply["type"] = f"{kind}_ok"
    return outcome


def register(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.2: the client's key gives the id; a known key keeps it."""
    key_text = messages.text(message, "public_key")
    if not key_text:
        raise Denied("registration requires public_key")
    try:
        key = messages.decode_base64(key_text, messages.KEY_LEN)
    except ValueError as error:
        raise Denied(f"invalid public key: {error}") from error
    listen_addr = messages.text(message, "listen_addr")
    signature = messages.text(message, "signature")
    if signature:
        try:
            verify_key(key, signature, f"register:{listen_addr}:{key_text}")
        except Denied as denied:
            raise Denied(f"registration: {denied}") from denied
    before = state.nodes.get(state.by_key.get(key, 0))
    if before is None and len(state.nodes) >= MAX_NODES:
        raise Denied("registry full")
    if before is not None and before.is_signed and not signature:
        raise Denied(
            f"node {before.node_id}: unsigned registration cannot modify a signature-verified key"
        )
    node = before or Node(node_id=state.next_node, public_key=key)
    endpoint = endpoint_of(listen_addr, source)
    if before is not None and not before.is_gone and not signature:
        is_same_host = before.endpoint.rpartition(":")[0] == endpoint.rpartition(":")[0]
        if not is_same_host:
            # Whoever knows a public key could move its node; wait for a proof.
            source.pending[node.node_id] = endpoint
            endpoint = before.endpoint
    after = replace(
        node,
        endpoint=endpoint,
        owner=node.owner or messages.text(message, "owner")[:256],
        version=messages.text(message, "version")[:64],
        lan_addrs=tuple(messages.texts(message, "lan_addrs")),
        last_seen=now,
        is_signed=node.is_signed or bool(signature),
        is_gone=False,
    )
    reply: Message = {
        "node_id": after.node_id,
        "network_id": 0,
        "address": after.address,
        "public_key": messages.encode_base64(key),
        "observed_addr": join(source.host, str(source.port)),
        "protocol_version": 1,
    }
    if hostname := messages.text(message, "hostname"):
        problem = check_hostname(hostname)
        taken = state.by_hostname.get(hostname, after.node_id) != after.node_id
        if problem or taken:
            reply["hostname_error"] = problem or f'hostname "{hostname}" already in use'
        else:
            after = replace(after, hostname=hostname)
            reply["hostname"] = hostname
    return Outcome(reply, (Change(before, after),))


def settle(node: Node, source: Source) -> Node:
    """Moves the endpoint that waited for this proof."""
    endpoint = source.pending.pop(node.node_id, "")
    return replace(node, endpoint=endpoint) if endpoint else node


def heartbeat(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.3. Liveness is not durable: after a restart every node gets a period of grace."""
    node = state.live(messages.number(message, "node_id"))
    verify(node, message, f"heartbeat:{node.node_id}")
    after = replace(settle(node, source), last_seen=now)
    if after.endpoint != node.endpoint:
        return Outcome({"time": int(now)}, (Change(node, after),))
    state.nodes[node.node_id] = after
    return Outcome({"time": int(now)})


def deregister(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.3; an unknown id is fine."""
    del source, now
    node = state.nodes.get(messages.number(message, "node_id"))
    if node is None or node.is_gone:
        return Outcome({})
    verify(node, message, f"deregister:{node.node_id}")
    return Outcome({}, (Change(node, replace(node, is_gone=True, hostname="", endpoint="")),))


def lookup(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.4: everything but the endpoint of private nodes, for anyone."""
    del source, now
    node = state.live(messages.number(message, "node_id"))
    reply: Message = {
        "node_id": node.node_id,
        "address": node.address,
        "networks": list(node.networks),
        "public_key": messages.encode_base64(node.public_key),
        "public": node.public,
        "polo_score": 0,
        "last_seen_unix": int(node.last_seen),
        "key_generation": 0,
    }
    if node.hostname:
        reply["hostname"] = node.hostname
    if node.version:
        reply["version"] = node.version
    if node.public:
        reply["real_addr"] = reply["endpoint"] = node.endpoint
    return Outcome(reply)


def resolve(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.4: the endpoint, for those who may know it (whitepaper, privacy)."""
    del now
    requester_id = messages.number(message, "requester_id")
    requester = state.nodes.get(requester_id)
    if requester is None or requester.is_gone:
        raise Denied(f"resolve denied: requester node {requester_id} is not registered")
    target_id = messages.number(message, "node_id")
    verify(requester, message, f"resolve:{requester_id}:{target_id}")
    target = state.live(target_id)
    is_neighbour = set(requester.networks) & set(target.networks) - {0}
    if not (target.public or is_neighbour):
        raise Denied(f"resolve denied: node {target_id} is private (establish mutual trust first)")
    reply: Message = {"node_id": target_id, "real_addr": target.endpoint}
    if target.lan_addrs:
        reply["lan_addrs"] = list(target.lan_addrs)
    settled = settle(requester, source)
    changes = (Change(requester, settled),) if settled is not requester else ()
    return Outcome(reply, changes)


def resolve_hostname(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.4: the id behind a name, never the endpoint."""
    del source, now
    name = messages.text(message, "hostname")
    if not name:
        raise Denied("hostname required")
    node_id = state.by_hostname.get(name)
    if node_id is None:
        raise Denied(f'hostname "{name[:64]}" not found')
    node = state.live(node_id)
    return Outcome(
        {
            "node_id": node_id,
            "address": node.address,
            "public": node.public,
            "hostname": name,
            "last_seen_unix": int(node.last_seen),
        }
    )


def set_hostname(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.5; an empty name clears."""
    del now
    name = messages.text(message, "hostname")
    if name and (problem := check_hostname(name)):
        raise Denied(f"invalid hostname: {problem}")
    node = state.live(messages.number(message, "node_id"))
    verify(node, message, f"set_hostname:{node.node_id}")
    owner = state.by_hostname.get(name, node.node_id)
    if name and owner != node.node_id:
        raise Denied(f'hostname "{name}" already in use by node {owner}')
    after = replace(settle(node, source), hostname=name)
    changes = (Change(node, after),) if after != node else ()
    return Outcome({"node_id": node.node_id, "hostname": name}, changes)


def set_visibility(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.5."""
    del now
    node = state.live(messages.number(message, "node_id"))
    verify(node, message, f"set_visibility:{node.node_id}")
    public = messages.flag(message, "public")
    after = replace(settle(node, source), public=public)
    changes = (Change(node, after),) if after != node else ()
    visibility = "public" if public else "private"
    return Outcome({"node_id": node.node_id, "visibility": visibility}, changes)


def list_networks(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.4: every node is on the backbone, the one network so far."""
    del message, source, now
    members = sum(not node.is_gone for node in state.nodes.values())
    backbone = {"id": 0, "name": "backbone", "join_rule": "open", "members": members}
    return Outcome({"networks": [backbone]})


def list_nodes(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.4: the backbone is not listed."""
    del state, source, now
    network = messages.number(message, "network_id", 16)
    if network == 0:
        raise Denied("listing backbone nodes is not permitted (use lookup with a specific node_id)")
    raise Denied(f"network {network}: network not found")


def beacon_list(state: State, message: Message, source: Source, now: float) -> Outcome:
    """Sheet 3.9: no beacon registers here."""
    del state, message, source, now
    return Outcome({"beacons": []})


HANDLERS: dict[str, Callable[[State, Message, Source, float], Outcome]] = {
    "register": register,
    "heartbeat": heartbeat,
    "deregister": deregister,
    "lookup": lookup,
    "resolve": resolve,
    "resolve_hostname": resolve_hostname,
    "set_hostname": set_hostname,
    "set_visibility": set_visibility,
    "list_networks": list_networks,
    "list_nodes": list_nodes,
    "beacon_list": beacon_list,
}


def to_json(node: Node) -> dict[str, Any]:
    """A node as it stands in the snapshot (sheet 4.3, and members of our own)."""
    row: dict[str, Any] = {
        "id": node.node_id,
        "public_key": messages.encode_base64(node.public_key),
        "networks": list(node.networks),
        "last_seen": node.last_seen,
    }
    optional = {
        "owner": node.owner,
        "real_addr": node.endpoint,
        "hostname": node.hostname,
        "public": node.public,
        "version": node.version,
        "lan_addrs": list(node.lan_addrs),
        "signed": node.is_signed,
        "gone": node.is_gone,
    }
    return row | {name: value for name, value in optional.items() if value}


def from_json(row: dict[str, Any], now: float) -> Node:
    """A node of a snapshot; ``now`` counts as the last time it was seen.

    Raises:
        ValueError: the row has no usable id or key.
    """
    node_id = messages.number(row, "id")
    if node_id == 0:
        raise ValueError("a node without id")
    networks = row.get("networks")
    return Node(
        node_id=node_id,
        public_key=messages.decode_base64(messages.text(row, "public_key"), messages.KEY_LEN),
        endpoint=messages.text(row, "real_addr"),
        hostname=messages.text(row, "hostname"),
        owner=messages.text(row, "owner"),
        version=messages.text(row, "version"),
        public=messages.flag(row, "public"),
        networks=tuple(n for n in networks if isinstance(n, int))
        if isinstance(networks, list)
        else (0,),
        lan_addrs=tuple(messages.texts(row, "lan_addrs")),
        last_seen=now,
        is_signed=messages.flag(row, "signed"),
        is_gone=messages.flag(row, "gone"),
    )
