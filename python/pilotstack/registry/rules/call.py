"""One request being answered: what a handler reads, and where it records what changes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from pilotstack.registry.model import auth
from pilotstack.registry.model.rows import Change, Key, Network, Node, Row
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.base import Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pilotstack.registry.model.source import Announcement, Source
    from pilotstack.registry.model.state import State

#: Nodes that a connection has proved to speak for, and unsigned registrations that wait on it.
MAX_PROVEN: Final = 64
MAX_PENDING: Final = 8

Q = TypeVar("Q", bound=Request[Reply], covariant=True)


class Outcome(msgspec.Struct, frozen=True):
    """The result of a request."""

    reply: Reply
    changes: tuple[Change, ...] = ()
    #: Nodes that have something to fetch now.
    wakes: tuple[int, ...] = ()
    #: Names of the wrong secrets in the request, for the operator's log.
    wrong_secrets: tuple[str, ...] = ()
    #: Seconds by which the reply is delayed.
    delay: float = 0.0


class Call(Generic[Q]):
    """A request with its context. Handlers return the reply and raise :exc:`Denied`.

    Changes are collected and take effect when the handler has returned: until then, the state is
    that before the request.
    """

    __slots__ = (
        "_after",
        "_is_operator",
        "_kept",
        "now",
        "request",
        "settled",
        "source",
        "state",
        "wakes",
        "wrong_secrets",
    )

    def __init__(self, state: State, request: Q, source: Source, now: float) -> None:
        self.state = state
        self.request = request
        self.source = source
        self.now = now
        self.wakes: tuple[int, ...] = ()
        #: Names of secrets that were wrong.
        self.wrong_secrets: tuple[str, ...] = ()
        #: Nodes whose pending registration the signature confirms.
        self.settled: tuple[int, ...] = ()
        self._after: dict[tuple[str, Key], Row | None] = {}
        self._kept: tuple[tuple[str, Key], ...] = ()
        #: The request carries the admin token of the network that it names.
        self._is_operator = False

    @property
    def at(self) -> int:
        """The time in whole seconds, as stored in rows."""
        return int(self.now)

    @property
    def wall(self) -> float:
        """Unix seconds of the wall clock, which may step."""
        return self.now + self.state.skew

    def seen(self, node_id: int) -> float:
        """When a node was last heard of, by the wall clock."""
        return self.state.seen.get(node_id, self.now) + self.state.skew

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Records the new row of a key; ``None`` removes it."""
        self._after[table, key] = row

    def keep(self, table: str, key: Key, row: Row) -> None:
        """Like :meth:`put`, but applies also when the request is refused."""
        self._after[table, key] = row
        self._kept += ((table, key),)

    def put_node(self, node: Node) -> None:
        """Records the new row of a node."""
        self._after["nodes", node.node_id] = node

    def wake(self, *node_ids: int) -> None:
        """Records that these nodes have something to fetch."""
        self.wakes += node_ids

    def tell_removal(self, network_id: int, node_id: int, to: Iterable[int]) -> None:
        """Has nodes told at once that one is no member of a network any more."""
        told = tuple(each for each in to if each in self.state.speaking)
        for each in told:
            self.state.removals.note(each, network_id, node_id)
        self.wake(*told)

    def changes(self, *, is_refused: bool = False) -> tuple[Change, ...]:
        """The recorded rows that differ from the state's."""
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

    def live(self, node_id: int) -> Node:
        """The registered node that is about to sign the request. A node that departed and
        registered again, unsigned, on this connection counts.

        Raises:
            Denied: there is none.
        """
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
            raise Denied(f"node {node_id}: node not found", Code.NODE_NOT_FOUND)
        return node

    def authenticate(self, node: Node) -> Node:
        """Checks that a node signed the request and records what that proves.

        Returns:
            The node after the proof: confirmed, with its pending registration applied.

        Raises:
            Denied: the signature is missing, malformed or wrong.
        """
        self.check(node)
        return self.accept(node)

    def check(self, node: Node) -> None:
        """Checks the signature and nothing else.

        Raises:
            Denied: it is missing, malformed or wrong.
        """
        request = self.request
        if not request.signature:
            raise Denied("signature required for authenticated node", Code.SIGNATURE)
        self.state.verifier.verify(node.public_key, request.signature, request.challenge())

    def accept(self, node: Node) -> Node:
        """Records what a valid signature proves; returns the node after the proof."""
        self.prove(node.node_id)
        return self.settle(node)

    def prove(self, node_id: int) -> None:
        """Records that the connection speaks for a node."""
        source, state = self.source, self.state
        if node_id not in source.proven and len(source.proven) < MAX_PROVEN:
            source.proven.add(node_id)
            state.speaking[node_id] += 1
        state.neighbours.add(source.host, node_id, self.now)

    def settle(self, node: Node) -> Node:
        """Confirms a node that gave a proof and applies its pending registration."""
        is_pending = node.node_id in self.source.pending
        if not (is_pending or node.is_unconfirmed) or self.state.policy.is_standby:
            return node
        self.settled += (node.node_id,)
        settled = changed(self._merged(node), is_unconfirmed=False)
        self.put_node(settled)
        return settled

    def _merged(self, node: Node) -> Node:
        """The node with its pending registration on this connection, if there is one."""
        said = self.source.pending.get(node.node_id)
        if said is None:
            return node
        is_taken = self.state.by_hostname.get(said.hostname, node.node_id) != node.node_id
        return announced(node, said, takes_name=not is_taken)

    def is_admin(self) -> bool:
        """Whether the request carries the registry's admin token.

        Raises:
            Denied: its source gave too many wrong ones.
        """
        if not self.request.admin_token:
            return False
        is_admin = self._is_admin()
        if self.state.policy.admin_token and not (is_admin or self._is_operator):
            self._wrong("admin_token")
        return is_admin

    def is_operator(self, network: Network) -> bool:
        """Whether the request carries the admin token of the registry or of the network. Must be
        asked before :meth:`is_admin`, which counts the network's token as a wrong guess.

        Raises:
            Denied: its source gave too many wrong ones.
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
        given = self.request.admin_token
        if given and "admin_token" not in self.wrong_secrets:
            self.state.guesses.check(self.source.host, self.now)
        return given

    def matches(self, token: str, stored: str, what: str) -> bool:
        """Whether ``stored`` is the hash of a token; the number of tries is limited.

        Args:
            what: name of the token in the log.

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
        """Whether ``stored`` is the hash of a secret that its owner repeats; does not count as a
        guess.

        Raises:
            Denied: too many were hashed lately.
        """
        return self.state.guesses.matches(secret, stored, self.source.host, self.now)

    def _wrong(self, what: str) -> None:
        # A request may try its token in several places; it counts as one guess.
        if what not in self.wrong_secrets:
            self.state.guesses.wrong(self.source.host, self.now)
            self.wrong_secrets += (what,)

    def hash_token(self, token: str, *purpose: object) -> str:
        """The hash of a token, for storing.

        Raises:
            Denied: too many were hashed lately.
        """
        self.state.guesses.spend(self.source.host, self.now)
        return auth.hash_token(token, self.salt(*purpose))

    def authorize(self, node: Node) -> Node:
        """Like :meth:`authenticate`; the admin token serves as well.

        Raises:
            Denied: there is neither.
        """
        return node if self.is_admin() else self.authenticate(node)

    def salt(self, *parts: object) -> bytes:
        """16 unpredictable bytes for one purpose."""
        text = repr((self.now, *parts)).encode()
        return hashlib.blake2b(text, key=self.state.policy.salt[:64], digest_size=16).digest()


def changed(node: Node, **members: object) -> Node:
    """A copy with some members replaced."""
    return msgspec.structs.replace(node, **members)


def announced(node: Node, said: Announcement, *, takes_name: bool = True) -> Node:
    """A node with what a registration says of it."""
    return msgspec.structs.replace(
        node,
        endpoint=said.endpoint,
        owner=said.owner,
        version=said.version,
        lan_addrs=said.lan_addrs,
        relay_only=said.relay_only,
        hostname=said.hostname if said.hostname and takes_name else node.hostname,
        gone_at=0,
    )


if TYPE_CHECKING:
    Handler = Callable[[Call[Any]], Reply]
    #: What answers each type of request.
    Handlers = dict[type[Request[Reply]], Handler]
