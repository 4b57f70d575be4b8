"""One request being answered: what handlers read from, and where they note what changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.registry import auth, messages
from pilotstack.registry.auth import Denied
from pilotstack.registry.records import Change, Key, Node, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.registry.messages import Message
    from pilotstack.registry.state import State

#: Nodes that are remembered for one connection.
MAX_PENDING: Final = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided. Times are seconds."""

    #: Creates networks and stands in for signatures; empty means that there is none.
    admin_token: str = ""
    #: Silence after which a node counts as offline (heartbeats come every 30 to 60).
    stale_after: float = 600.0
    #: A new key with the owner of a deregistered node gets that node's id.
    allows_owner_reclaim: bool = False
    #: How long after deregistration that becomes possible.
    reclaim_after: float = 3600.0
    #: A signed registration may name a public endpoint other than its source address.
    allows_named_endpoints: bool = False
    #: Every registration must be signed.
    requires_signed_registration: bool = False
    #: The first id given out (the address plan of the whitepaper has names for 1 to 3).
    first_node: int = 1
    max_nodes: int = 1_000_000
    #: Verified signatures to remember; three for each node make heartbeats cheap.
    verified_signatures: int = 1 << 19
    #: A copy of another registry: nothing a request does may change it.
    is_standby: bool = False
    #: Mixed into the salts of tokens; random, and different in each process.
    salt: bytes = b""


@dataclass(slots=True, eq=False)
class Source:
    """The connection that a request came on."""

    host: str
    port: int
    #: Endpoints of existing nodes that wait for a signed request on this connection.
    pending: dict[int, str] = field(default_factory=dict)
    #: Nodes that signed something on this connection.
    proven: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request led to."""

    reply: Message
    changes: tuple[Change, ...] = ()
    #: Nodes for whom something waits now.
    wakes: tuple[int, ...] = ()


class Call:
    """A request with its context. Handlers return the reply's members and raise :exc:`Denied`.

    Changes are gathered, and take effect only when the handler has returned: state read meanwhile
    is that before the request.
    """

    __slots__ = ("_after", "message", "now", "settled", "source", "state", "wakes")

    def __init__(self, state: State, message: Message, source: Source, now: float) -> None:
        self.state = state
        self.message = message
        self.source = source
        self.now = now
        self.wakes: list[int] = []
        #: Nodes whose waiting endpoint the signature proves.
        self.settled: list[int] = []
        self._after: dict[tuple[str, Key], Row | None] = {}

    @property
    def at(self) -> int:
        """The time in whole seconds, as rows have it."""
        return int(self.now)

    def text(self, name: str) -> str:
        """A string member."""
        return messages.text(self.message, name)

    def flag(self, name: str) -> bool:
        """A boolean member."""
        return messages.flag(self.message, name)

    def number(self, name: str, bits: int = 32) -> int:
        """A number member."""
        return messages.number(self.message, name, bits)

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Notes that a row becomes this."""
        self._after[table, key] = row

    def put_node(self, node: Node) -> None:
        """Notes that a node becomes this."""
        self._after["nodes", node.node_id] = node

    def wake(self, *node_ids: int) -> None:
        """Notes that something waits for these nodes now."""
        self.wakes.extend(node_ids)

    def changes(self) -> tuple[Change, ...]:
        """What really changes."""
        found = []
        for (table, key), after in self._after.items():
            before = self.state.row(table, key)
            if before != after:
                found.append(Change(table, key, before, after))
        return tuple(found)

    def live(self, member: str = "node_id") -> Node:
        """The registered node that a member names.

        Raises:
            Denied: there is none.
        """
        return self.node(self.number(member))

    def node(self, node_id: int) -> Node:
        """A registered node.

        Raises:
            Denied: there is none.
        """
        node = self.state.nodes.get(node_id)
        if node is None or node.gone_at:
            raise Denied(f"node {node_id}: node not found")
        return node

    def authenticate(self, node: Node, challenge: str) -> Node:
        """Checks the request's signature (sheet 2.1); what it proves is noted.

        Returns:
            The node as it is then: confirmed, and where it says it is.

        Raises:
            Denied: the signature is missing, malformed or wrong.
        """
        signature = self.text("signature")
        if not signature:
            raise Denied("signature required for authenticated node")
        self.state.verifier.verify(node.public_key, signature, challenge)
        if len(self.source.proven) < MAX_PENDING:
            self.source.proven.add(node.node_id)
        return self.settle(node)

    def settle(self, node: Node) -> Node:
        """The node after a proof: its id is confirmed and its waiting endpoint taken."""
        endpoint = self.source.pending.get(node.node_id, "")
        if not (endpoint or node.is_unconfirmed) or self.state.policy.is_standby:
            return node
        self.settled.append(node.node_id)
        settled = changed(node, is_unconfirmed=False, endpoint=endpoint or node.endpoint)
        self.put_node(settled)
        return settled

    def is_admin(self) -> bool:
        """Whether the request carries the admin token."""
        expected = self.state.policy.admin_token
        return bool(expected) and auth.same(self.text("admin_token"), expected)

    def authorize(self, node: Node, challenge: str) -> Node:
        """As :meth:`authenticate`, but the admin token will do, too.

        Raises:
            Denied: neither is there.
        """
        return node if self.is_admin() else self.authenticate(node, challenge)

    def salt(self, *parts: object) -> bytes:
        """16 octets that nobody can foresee and that are used for this purpose only."""
        text = repr((self.now, *parts)).encode()
        return hashlib.blake2b(text, key=self.state.policy.salt[:64], digest_size=16).digest()


def changed(node: Node, **members: object) -> Node:
    """A copy with some members replaced."""
    return msgspec.structs.replace(node, **members)


if TYPE_CHECKING:
    Handler = Callable[[Call], Message]
