"""One request being answered: what handlers read from, and where they note what changes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.registry.model import auth
from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.rows import Change, Key, Network, Node, Row
from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.registry.model.source import Source
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.framing import Message

#: Nodes of one connection whose signatures are remembered, and whose unsigned registrations wait
#: for one.
MAX_PROVEN: Final = 64
MAX_PENDING: Final = 8


class Outcome(msgspec.Struct, frozen=True):
    """What a request led to."""

    reply: Message
    changes: tuple[Change, ...] = ()
    #: Nodes for whom something waits now.
    wakes: tuple[int, ...] = ()
    #: Secrets in it that were wrong, for the operator's log.
    notes: tuple[str, ...] = ()
    #: Seconds for which the reply is to be held back.
    delay: float = 0.0


class Call:
    """A request with its context. Handlers return the reply's members and raise :exc:`Denied`.

    Changes are gathered, and take effect only when the handler has returned: state read meanwhile
    is that before the request.
    """

    __slots__ = (
        "_after",
        "_is_operator",
        "_kept",
        "message",
        "notes",
        "now",
        "settled",
        "source",
        "state",
        "wakes",
    )

    def __init__(self, state: State, message: Message, source: Source, now: float) -> None:
        self.state = state
        self.message = message
        self.source = source
        self.now = now
        self.wakes: tuple[int, ...] = ()
        #: Secrets that were wrong.
        self.notes: tuple[str, ...] = ()
        #: Nodes whose waiting registration the signature proves.
        self.settled: tuple[int, ...] = ()
        self._after: dict[tuple[str, Key], Row | None] = {}
        self._kept: tuple[tuple[str, Key], ...] = ()
        #: Whether the request carries the admin token of the network that it names.
        self._is_operator = False

    @property
    def at(self) -> int:
        """The time in whole seconds, as rows have it."""
        return int(self.now)

    @property
    def wall(self) -> float:
        """Unix seconds of the wall clock, which may step."""
        return self.now + self.state.skew

    def seen(self, node_id: int) -> float:
        """When a node was last heard of, as the world's clocks have it."""
        return self.state.seen.get(node_id, self.now) + self.state.skew

    def text(self, name: str) -> str:
        """A string member."""
        return values.text(self.message, name)

    def flag(self, name: str) -> bool:
        """A boolean member."""
        return values.flag(self.message, name)

    def number(self, name: str, bits: int = 32) -> int:
        """A number member."""
        return values.number(self.message, name, bits)

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Notes that a row becomes this."""
        self._after[table, key] = row

    def keep(self, table: str, key: Key, row: Row) -> None:
        """As :meth:`put`, but also if the request is refused."""
        self._after[table, key] = row
        self._kept += ((table, key),)

    def put_node(self, node: Node) -> None:
        """Notes that a node becomes this."""
        self._after["nodes", node.node_id] = node

    def wake(self, *node_ids: int) -> None:
        """Notes that something waits for these nodes now."""
        self.wakes += node_ids

    def changes(self, *, is_refused: bool = False) -> tuple[Change, ...]:
        """What really changes."""
        rows = self._after
        if not rows:
            return ()
        if is_refused:
            rows = {name: rows[name] for name in self._kept}
        found = []
        for (table, key), after in rows.items():
            before = self.state.row(table, key)
            if before != after:
                found.append(Change(table, key, before, after))
        return tuple(found)

    def live(self, member: str = "node_id") -> Node:
        """The registered node that a member names and that is going to sign the request; one that
        departed, too, if it has registered again on this connection.

        Raises:
            Denied: there is none.
        """
        node_id = self.number(member)
        node = self.state.nodes.get(node_id)
        if node is not None and node.gone_at and node_id in self.source.pending:
            return self._merged(node)
        return self.node(node_id)

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
        self.check(node, challenge)
        return self.accept(node)

    def check(self, node: Node, challenge: str) -> None:
        """Checks the request's signature and nothing else.

        Raises:
            Denied: it is missing, malformed or wrong.
        """
        signature = self.text("signature")
        if not signature:
            raise Denied("signature required for authenticated node")
        self.state.verifier.verify(node.public_key, signature, challenge)

    def accept(self, node: Node) -> Node:
        """Notes what a valid signature proves; the node as it is then."""
        self.prove(node.node_id)
        return self.settle(node)

    def prove(self, node_id: int) -> None:
        """Notes that the connection speaks for a node."""
        source, state = self.source, self.state
        if node_id not in source.proven and len(source.proven) < MAX_PROVEN:
            source.proven.add(node_id)
            state.speaking[node_id] += 1
        state.neighbours.add(source.host, node_id, self.now)

    def settle(self, node: Node) -> Node:
        """The node after a proof: its id is confirmed, and what it registered unsigned is true."""
        is_waiting = node.node_id in self.source.pending
        if not (is_waiting or node.is_unconfirmed) or self.state.policy.is_standby:
            return node
        self.settled += (node.node_id,)
        settled = changed(self._merged(node), is_unconfirmed=False)
        self.put_node(settled)
        return settled

    def _merged(self, node: Node) -> Node:
        """The node with what an unsigned registration on this connection says of it."""
        said = self.source.pending.get(node.node_id)
        if said is None:
            return node
        hostname = said.get("hostname", "")
        if self.state.by_hostname.get(hostname, node.node_id) != node.node_id:
            said = {name: value for name, value in said.items() if name != "hostname"}
        return changed(node, **said, gone_at=0)

    def is_admin(self) -> bool:
        """Whether the request carries the admin token.

        Raises:
            Denied: too many wrong ones came from its source.
        """
        if "admin_token" not in self.message:
            return False
        is_admin = self._is_admin()
        is_guess = self.text("admin_token") and self.state.policy.admin_token
        if is_guess and not (is_admin or self._is_operator):
            self._wrong("admin_token")
        return is_admin

    def is_operator(self, network: Network) -> bool:
        """Whether the request carries the registry's admin token or the network's; to be asked
        before :meth:`is_admin`, for which the latter is a wrong one.

        Raises:
            Denied: too many wrong ones came from its source.
        """
        given = self._given_token()
        if self._is_admin() or self._is_operator:
            return True
        if given and not network.admin_token_hash and self.state.policy.admin_token:
            self._wrong("admin_token")
        self._is_operator = self.matches(given, network.admin_token_hash, "admin_token")
        return self._is_operator

    def _is_admin(self) -> bool:
        expected, given = self.state.policy.admin_token, self._given_token()
        return bool(expected and given) and auth.same(given, expected)

    def _given_token(self) -> str:
        given = self.text("admin_token")
        if given and "admin_token" not in self.notes:
            self.state.guesses.check(self.source.host, self.now)
        return given

    def matches(self, token: str, stored: str, what: str) -> bool:
        """Whether ``stored`` is the hash of a token; how many may be tried is limited.

        Args:
            what: names the token in the log.

        Raises:
            Denied: too many were tried.
        """
        if not (token and stored):
            return False
        guesses, host = self.state.guesses, self.source.host
        guesses.check(host, self.now)
        if guesses.matches(token, stored, host, self.now):
            return True
        self._wrong(what)
        return False

    def is_secret(self, secret: str, stored: str) -> bool:
        """Whether ``stored`` is the hash of what its owner says again; no guess.

        Raises:
            Denied: too many were hashed lately.
        """
        return self.state.guesses.matches(secret, stored, self.source.host, self.now)

    def _wrong(self, what: str) -> None:
        # A request may try its token in several places, and is one guess.
        if what not in self.notes:
            self.state.guesses.wrong(self.source.host, self.now)
            self.notes += (what,)

    def hash_token(self, token: str, *purpose: object) -> str:
        """What is stored of a token.

        Raises:
            Denied: too many were hashed lately.
        """
        self.state.guesses.spend(self.source.host, self.now)
        return auth.hash_token(token, self.salt(*purpose))

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
