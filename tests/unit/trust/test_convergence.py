"""Trust converges to both sides or none over any channel."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.trust.model import World

from pilotstack.trust.state import COOLDOWN, DOUBT

A, B = 1, 2
nodes = st.sampled_from([A, B])


class TwoNodes(RuleBasedStateMachine):
    """Operators, a channel that loses, reorders and replays, and polls at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(A, B)
        self.step = 0
        #: Steps of each operator's last consent and revocation, and the last at which its node
        #: stood by a consent.
        self.consent = {A: 0, B: 0}
        self.revocation = {A: 0, B: 0}
        self.standing = {A: 0, B: 0}
        self.trusting = {A: False, B: False}

    def teardown(self) -> None:
        self.quiet()

    @rule(node=nodes, is_direct=st.booleans())
    def request(self, node: int, is_direct: bool) -> None:
        self.world.is_direct = is_direct
        self.consent[node] = self.tick()
        trust = self.world.nodes[node]
        self.world.carry_out(node, trust.request(3 - node, "please", self.world.now))

    @rule(node=nodes)
    def approve(self, node: int) -> None:
        trust = self.world.nodes[node]
        if 3 - node in trust.rows.pending:
            self.consent[node] = self.tick()
        self.world.carry_out(node, trust.approve(3 - node, self.world.now))

    @rule(node=nodes)
    def reject(self, node: int) -> None:
        trust = self.world.nodes[node]
        self.world.carry_out(node, trust.reject(3 - node, "no", self.world.now))

    @rule(node=nodes)
    def revoke(self, node: int) -> None:
        trust = self.world.nodes[node]
        if trust.is_trusted(3 - node):
            self.revocation[node] = self.tick()
            self.world.carry_out(node, trust.revoke(3 - node, self.world.now))

    @precondition(lambda self: self.world.channel)
    @rule(data=st.data(), is_kept=st.booleans())
    def deliver(self, data: st.DataObject, is_kept: bool) -> None:
        index = data.draw(st.integers(0, len(self.world.channel) - 1))
        sent = self.world.channel[index]
        if not is_kept:
            del self.world.channel[index]
        self.world.deliver(*sent)

    @precondition(lambda self: self.world.channel)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        del self.world.channel[data.draw(st.integers(0, len(self.world.channel) - 1))]

    @rule(node=nodes)
    def poll(self, node: int) -> None:
        self.world.poll(node)

    @rule(seconds=st.sampled_from([0.3, 1, 5, 45, 200, 400]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    def tick(self) -> int:
        self.step += 1
        return self.step

    @invariant()
    def nobody_trusts_without_both_consents(self) -> None:
        for node in (A, B):
            rows = self.world.nodes[node].rows
            if 3 - node in rows.trusted or 3 - node in rows.outgoing:
                self.standing[node] = self.tick()
        for node in (A, B):
            is_trusting = self.world.nodes[node].is_trusted(3 - node)
            if is_trusting and not self.trusting[node]:
                assert self.consent[node] > self.revocation[node]
                assert self.consent[3 - node] > 0
                # A grant that we take was given since our last revocation.
                is_grant_taken = node not in self.world.granting
                assert not is_grant_taken or self.standing[3 - node] > self.revocation[node]
            self.trusting[node] = is_trusting
        self.world.granting.clear()

    def quiet(self) -> None:
        """Nothing more is asked for; what was sent directly is lost."""
        self.world.channel.clear()
        for _ in range(6):
            for node in (A, B):
                self.world.poll(node)
                self.world.deliver_all()
            self.world.now += DOUBT + COOLDOWN
            for node in (A, B):
                self.world.check(node)
        assert self.world.nodes[A].is_trusted(B) == self.world.nodes[B].is_trusted(A)


TestTwoNodes = TwoNodes.TestCase
TestTwoNodes.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
