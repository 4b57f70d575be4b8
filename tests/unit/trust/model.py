"""A model of two or more nodes, a registry and an unreliable channel."""

from __future__ import annotations

from dataclasses import dataclass, field

from pilotstack.daemon.identity import Identity
from pilotstack.trust import messages
from pilotstack.trust.messages import Kind, TrustMessage
from pilotstack.trust.records import (
    AskPair,
    Confirm,
    Effects,
    PeerRecord,
    ReportTrust,
    Respond,
    RevokeTrust,
    Send,
)
from pilotstack.trust.state import Trust

START = 1_800_000_000.0


def identity_of(node: int) -> Identity:
    return Identity(bytes([node]) * 32)


def record_of(node: int, *networks: int) -> PeerRecord:
    return PeerRecord(identity_of(node).public_key, frozenset(networks))


def message_of(
    sender: int, receiver: int, kind: Kind, timestamp: float = START, text: str = ""
) -> TrustMessage:
    identity = identity_of(sender)
    signature = identity.sign(messages.challenge(sender, receiver))
    return TrustMessage(kind, sender, identity.public_key, signature, int(timestamp), text)


@dataclass
class Registry:
    """Directed claims and inboxes; a revocation does not reach into the inboxes."""

    claims: set[tuple[int, int]] = field(default_factory=set)
    requests: dict[int, dict[int, str]] = field(default_factory=dict)
    responses: dict[int, list[tuple[int, bool, int]]] = field(default_factory=dict)

    def is_active(self, a: int, b: int) -> bool:
        return {(a, b), (b, a)} <= self.claims

    def request(self, sender: int, receiver: int, text: str) -> None:
        self.claims.add((sender, receiver))
        self.requests.setdefault(receiver, {})[sender] = text

    def respond(self, node: int, peer: int, accept: bool, now: float) -> None:
        self.requests.get(node, {}).pop(peer, None)
        if accept:
            self.claims.add((node, peer))
        else:
            self.claims.discard((peer, node))
        self.responses.setdefault(peer, []).append((node, accept, int(now)))

    def revoke(self, node: int, peer: int) -> None:
        self.claims -= {(node, peer), (peer, node)}


class World:
    """Nodes whose effects are carried out; ``channel`` holds what was sent directly."""

    def __init__(self, *nodes: int) -> None:
        self.now = START
        self.registry = Registry()
        self.nodes = {node: Trust() for node in nodes}
        for node, trust in self.nodes.items():
            trust.own = node
        self.channel: list[tuple[int, Send]] = []
        #: Nodes that granted a request since this was cleared.
        self.granting: set[int] = set()
        #: Whether requests can be delivered directly.
        self.is_direct = True

    def carry_out(self, node: int, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Send():
                    if effect.kind is Kind.REQUEST and (effect.is_repeat or not self.is_direct):
                        self.registry.request(node, effect.peer, effect.text)
                    self.channel.append((node, effect))
                case Respond():
                    if effect.accept:
                        self.granting.add(node)
                    self.registry.respond(node, effect.peer, effect.accept, self.now)
                case ReportTrust():
                    self.registry.claims.add((node, effect.peer))
                case RevokeTrust():
                    self.registry.revoke(node, effect.peer)
                case Confirm():
                    if not self.registry.is_active(node, effect.peer):
                        self.registry.claims.add((node, effect.peer))
                    is_active = self.registry.is_active(node, effect.peer)
                    trust = self.nodes[node]
                    self.carry_out(
                        node,
                        trust.confirmed(effect.peer, is_active, record_of(effect.peer), self.now),
                    )
                case AskPair(peer):
                    is_active = self.registry.is_active(node, peer)
                    answer = self.nodes[node].unsolicited(
                        peer, is_active, record_of(peer), self.now
                    )
                    self.carry_out(node, answer)
                case _:
                    pass

    def deliver(self, sender: int, sent: Send) -> None:
        trust = self.nodes[sent.peer]
        message = message_of(sender, sent.peer, sent.kind, sent.timestamp, sent.text)
        self.carry_out(sent.peer, trust.receive(message, sender, record_of(sender), self.now))

    def deliver_all(self) -> None:
        while self.channel:
            self.deliver(*self.channel.pop(0))

    def poll(self, node: int) -> None:
        trust = self.nodes[node]
        for sender, text in list(self.registry.requests.get(node, {}).items()):
            effects = trust.relayed_request(sender, text, record_of(sender), self.now)
            self.carry_out(node, effects)
        answers = {answer[0]: answer for answer in self.registry.responses.pop(node, [])}
        for sender, accept, at in answers.values():
            effects = trust.relayed_response(sender, accept, at, record_of(sender), self.now)
            self.carry_out(node, effects)

    def check(self, node: int) -> None:
        trust = self.nodes[node]
        for peer in list(trust.rows.trusted):
            is_active = self.registry.is_active(node, peer)
            self.carry_out(node, trust.checked(peer, is_active, self.now))
