"""A registry state with signing nodes, for tests without sockets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pilotstack.daemon.identity import Identity
from pilotstack.registry.client.refusals import error_of
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import codec
from pilotstack.registry.protocol.errors import COMMON, Code
from pilotstack.registry.protocol.requests.base import digest_of, name_of
from pilotstack.registry.protocol.values import encode_base64
from pilotstack.registry.rules import dispatch, freshness
from pilotstack.registry.storage import snapshot

if TYPE_CHECKING:
    from pilotstack.registry.model.policy import Policy
    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.protocol.requests.base import Reply, Request

NOW = 1_800_000_000.0

#: Names of the requests that the state machine answers, and of those that only read.
NAMES = frozenset(map(name_of, dispatch.HANDLERS))
READS = frozenset(name_of(kind) for kind in dispatch.HANDLERS if kind.is_read)

#: Members that the page's placeholders stand for, unless they have the member's own name.
_MEMBERS = {
    **{name: f"{name}_id" for name in ("node", "requester", "peer", "network", "inviter")},
    **{"from": "from_node_id", "to": "to_node_id", "target": "target_node_id"},
    **{"a": "node_a", "b": "node_b", "new owner": "new_owner_id", "new key": "new_public_key"},
}
_TABLE = re.compile(r"^\| type \| members \| challenge \|.*?\n\n", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| (`[^|]+) \|[^|]*\| `([^`|]+)`([^|]*)\|", re.MULTILINE)


def _read_page() -> tuple[dict[str, str], frozenset[str]]:
    """What each request signs, from its own members, and the requests whose signatures serve
    once: as docs/reference/protocol/registry.md says, so that the page is tested, too."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "protocol" / "registry.md"
    challenges, timed = {}, set()
    for table in _TABLE.findall(page.read_text()):
        for types, challenge, rest in _ROW.findall(table):
            for name in re.findall(r"`(\w+)`", types):
                text = challenge.replace("<type>", name)
                challenges[name] = re.sub(
                    "<([^>]+)>", lambda found: f"{{{_MEMBERS.get(found[1], found[1])}}}", text
                )
                if rest.startswith(", once"):
                    timed.add(name)
    return challenges, frozenset(timed)


CHALLENGES, TIMED = _read_page()


def challenge_of(request: dict[str, Any]) -> str:
    """What a request signs."""
    return CHALLENGES.get(request["type"], "{type}:{node_id}").format(**{"ttl": 0, **request})


def identity(name: str) -> Identity:
    """The key that belongs to a name."""
    return Identity(name.encode().ljust(32, b".")[:32])


def key_text(name: str) -> str:
    """Its public half, as it travels."""
    return encode_base64(identity(name).public_key)


def snapshot_of(state: State) -> dict[str, Any]:
    """A state as its snapshot file has it."""
    rows: dict[str, Any] = msgspec.json.decode(b"".join(snapshot.View(state).chunks()))
    del rows["sum"]
    return rows


class Answer(NamedTuple):
    """The outcome of a request, the reply as it travels."""

    reply: dict[str, Any]
    changes: tuple[Change, ...]
    wakes: tuple[int, ...]
    wrong_secrets: tuple[str, ...]
    delay: float


def as_message(reply: Reply) -> dict[str, Any]:
    """A reply as it travels."""
    message: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(reply))
    return message


def request_of(message: dict[str, Any]) -> Request[Reply]:
    """The request of a message, which the strict and the lenient decoder read alike."""
    request = codec.decode(msgspec.json.encode(message))
    assert request == codec.from_message(message)
    return request


def apply(state: State, message: dict[str, Any], source: Source, now: float) -> Answer:
    """Applies a request as it travels. A refusal has a code that the request declares, and that
    means to clients what its text does."""
    request = request_of(message)
    outcome = dispatch.apply(state, request, source, now)
    reply = as_message(outcome.reply)
    if "error" in reply:
        text, code = reply["error"], Code(reply["code"])
        assert code in type(request).errors | COMMON | {Code.UNKNOWN_TYPE}, (message, reply)
        by_code, by_text = error_of(text, code), error_of(text)
        assert type(by_code) is type(by_text), reply
        assert (str(by_code), by_code.hint) == (str(by_text), by_text.hint), reply
    return Answer(reply, outcome.changes, outcome.wakes, outcome.wrong_secrets, outcome.delay)


class World:
    """A state, a clock that stands still until it is moved, and nodes by name."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.state = State(policy)
        self.now = NOW
        self.moment = 0
        self.ids: dict[str, int] = {}
        self.sources: dict[str, Source] = {}

    def source(self, name: str) -> Source:
        """The connection of a node; each has an address of its own."""
        host = f"198.51.100.{len(self.sources) + 1}"
        return self.sources.setdefault(name, Source(host, 40_000))

    def run(self, request: dict[str, Any], source: Source | None = None) -> Answer:
        """Applies a request as it is."""
        return apply(self.state, request, source or Source("203.0.113.9", 1), self.now)

    def ask(
        self,
        name: str,
        kind: str,
        /,
        *,
        sign: bool | str = True,
        source: Source | None = None,
        **members: Any,
    ) -> dict[str, Any]:
        """The reply to a request of a node.

        Args:
            sign: by whom else, or nobody.
        """
        request: dict[str, Any] = {"type": kind, **members}
        if sign:
            request = self.sign(name if sign is True else sign, request)
        return self.run(request, source or self.source(name)).reply

    def sign(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """The request, signed by the key of a name; what serves once, with the time, too."""
        signer = identity(name)
        challenge = challenge_of(request)
        signature = encode_base64(signer.sign(challenge.encode()))
        if request["type"] not in TIMED:
            return request | {"signature": signature}
        # No two of the same second.
        self.moment = (self.moment + 1) % freshness.WINDOW
        at = int(self.now) + self.moment
        request = request | {"signed_at": at}
        timed = f"{challenge}@{at}#{digest_of(request)}"
        signature_at = encode_base64(signer.sign(timed.encode()))
        return request | {"signature": signature, "signature_at": signature_at}

    def about(self, name: str, kind: str, /, **members: Any) -> dict[str, Any]:
        """As :meth:`ask`, about the node itself."""
        return self.ask(name, kind, node_id=self.ids[name], **members)

    def register(self, name: str, /, *, sign: bool | str = True, **members: Any) -> dict[str, Any]:
        """Registers a node and remembers its id."""
        members.setdefault("listen_addr", "0.0.0.0:4000")
        members.setdefault("public_key", key_text(name))
        reply = self.ask(name, "register", sign=sign, **members)
        if "node_id" in reply:
            self.ids.setdefault(name, reply["node_id"])
        return reply

    def join(self, *names: str) -> None:
        """Registers several nodes."""
        for name in names:
            assert "error" not in self.register(name)

    def resolve(self, requester: str, target: str) -> dict[str, Any]:
        """What a node is told of another's endpoint."""
        return self.ask(
            requester, "resolve", requester_id=self.ids[requester], node_id=self.ids[target]
        )

    def trust(self, a: str, b: str) -> dict[str, Any]:
        """One side's consent."""
        return self.about(a, "report_trust", peer_id=self.ids[b])

    def request(self, a: str, b: str, text: str = "hello") -> dict[str, Any]:
        """One side asks for trust."""
        return self.ask(
            a,
            "request_handshake",
            from_node_id=self.ids[a],
            to_node_id=self.ids[b],
            justification=text,
        )

    def respond(self, a: str, b: str, *, accept: bool) -> dict[str, Any]:
        """One side answers."""
        return self.about(a, "respond_handshake", peer_id=self.ids[b], accept=accept)

    def poll(self, name: str, source: Source | None = None) -> tuple[list[int], list[int]]:
        """Who asked a node, and who answered it."""
        reply = self.about(name, "poll_handshakes", source=source)
        return (
            [row["from_node_id"] for row in reply["requests"]],
            [row["from_node_id"] for row in reply["responses"]],
        )

    def create(self, name: str, network: str, /, **members: Any) -> int:
        """A network of a node's."""
        reply = self.about(name, "create_network", name=network, **members)
        assert "error" not in reply, reply
        return int(reply["network_id"])
