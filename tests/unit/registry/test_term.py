"""Clusters and terms: what is stored, proved and learned."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.registry import request_of

from pilotstack.errors import InternalError
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.model.state import State
from pilotstack.registry.protocol import framing
from pilotstack.registry.protocol.standing import MAX_TERM
from pilotstack.registry.replication.standing import Fence, Standing
from pilotstack.registry.server.limits import Limits
from pilotstack.registry.server.service import Service
from pilotstack.registry.storage.ledger import Ledger
from pilotstack.registry.storage.store import MemoryStore
from pilotstack.registry.storage.term import Term

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "replication secret"


def promoted(cluster: str, term: int = 1) -> Standing:
    own = Term(None)
    own.follow("127.0.0.1:1", None)
    own.adopt(cluster, term - 1)
    own.lead()
    return Standing(own, SECRET)


def leading(token: str = SECRET) -> Standing:
    own = Term(None)
    own.lead()
    return Standing(own, token)


def test_the_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "term"
    path.write_text('{"term":3,"is_standby":false}')
    term = Term(path)
    assert (term.number, term.cluster, term.has_led) == (3, "", True)
    assert not term.lead()
    assert term.cluster
    again = Term(path)
    assert (again.number, again.cluster) == (3, term.cluster)


def test_every_flipped_bit_of_the_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "term"
    term = Term(path)
    term.follow("one.example.com:9000", "ab" * 32)
    term.adopt("0123456789abcdef", 3)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(InternalError, match="cannot be read"):
                Term(path)


def test_a_former_primary_is_remembered_as_one_until_it_has_copied_another(tmp_path: Path) -> None:
    path = tmp_path / "term"
    fresh = Term(path)
    fresh.follow("a:1", None)
    assert not Term(path).has_led
    Term(path).lead()
    Term(path).follow("a:1", None)
    assert Term(path).has_led
    Term(path).adopt("c", 4)
    term = Term(path)
    assert (term.has_led, term.number, term.cluster) == (False, 4, "c")
    assert term.last_primary == ("a:1", None)


def test_a_replaced_registry_stays_replaced_unless_promoted(tmp_path: Path) -> None:
    path = tmp_path / "term"
    Term(path).lead()
    Term(path).replace(7)
    again = Term(path)
    assert not again.lead()
    assert Standing(again).is_replaced
    assert again.lead(is_forced=True)
    assert (again.number, Standing(again).is_replaced) == (8, False)
    # Left in a unit's file, it promotes nobody again.
    assert not Term(path).lead(is_forced=True)


def test_a_proof_needs_the_secret() -> None:
    fence = Fence(SECRET)
    proof = fence.prove("c", 2)
    assert fence.accepts("c", 2, proof)
    assert not fence.accepts("c", 3, proof)
    assert not fence.accepts("d", 2, proof)
    assert not fence.accepts("c", 2, "")
    assert not fence.accepts("c", 2, "\u00e9")
    assert not fence.accepts("c", MAX_TERM, fence.prove("c", MAX_TERM))
    assert not Fence("another").accepts("c", 2, proof)
    # Nobody shares an empty secret.
    assert Fence("").prove("c", 2) == ""
    assert not Fence("").accepts("c", 2, "")


class Asked:
    """A primary's service, asked without sockets."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        state = State(Policy(salt=os.urandom(32)))
        self.service = Service(Ledger(state, MemoryStore()), Limits(), standing=standing)

    async def ask(self, kind: str, **members: Any) -> dict[str, Any]:
        allowance = self.service.throttle.connection("127.0.0.1", 0.0)
        request = request_of({"type": kind, **members})
        reply = await self.service.answer(request, Source("127.0.0.1", 1), allowance)
        return framing.decode(framing.encode(reply, self.standing.stamp)[framing.LENGTH_LEN :])


@pytest.mark.anyio
async def test_every_reply_says_which_registry_it_is_from() -> None:
    asked = Asked(leading())
    cluster = asked.standing.term.cluster
    for kind in ("lookup", "list_networks", "no such", ""):
        reply = await asked.ask(kind)
        assert (reply["cluster"], reply["term"]) == (cluster, 0)
        assert "term_proof" not in reply
    reply = await Asked(promoted("c")).ask("list_networks")
    assert Fence(SECRET).accepts("c", 1, reply["term_proof"])


@pytest.mark.anyio
async def test_a_primary_that_learns_of_a_higher_term_writes_nothing_more() -> None:
    asked = Asked(leading())
    newer = promoted(asked.standing.term.cluster)
    # Any request may carry the news, and is not answered as if there were none.
    reply = await asked.ask("register", **newer.members)
    assert (reply["code"], reply["replaced"]) == ("standby", True)
    assert asked.service.ledger.state.policy.is_standby
    assert "error" not in await asked.ask("list_networks")
    assert (await asked.ask("announce_term", **newer.members))["replaced"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "members",
    [
        {"term": 1},
        {"term": 1, "term_proof": "00" * 32},
        {"term": 1, "term_proof": 7},
        {"term": -1, "term_proof": "00" * 32},
        {"term": 1 << 80, "term_proof": "00" * 32},
        {"term": 1, "cluster": ["x"], "term_proof": Fence("a guess").prove("", 1)},
    ],
)
async def test_without_a_proof_nobody_is_replaced(members: dict[str, Any]) -> None:
    asked = Asked(leading())
    reply = await asked.ask("list_networks", **members)
    assert not asked.standing.is_replaced
    assert "error" not in reply


@pytest.mark.anyio
async def test_a_proof_for_another_cluster_replaces_nobody() -> None:
    asked = Asked(leading())
    reply = await asked.ask("register", **promoted("another").members)
    assert reply["code"] == "foreign"
    assert not asked.standing.is_replaced


@pytest.mark.anyio
async def test_a_registry_without_a_token_accepts_no_proof() -> None:
    asked = Asked(leading(token=""))
    await asked.ask("register", **promoted(asked.standing.term.cluster).members)
    assert not asked.standing.is_replaced


def test_what_a_full_disk_refused_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "term"
    term = Term(path)
    term.lead()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pilotstack._files.replace", fail)
        with pytest.raises(OSError, match="No space"):
            term.replace(5)
        with pytest.raises(OSError, match="No space"):
            term.settle()
    assert term.replaced_by == 5
    assert Term(path).replaced_by == 0
    term.settle()
    assert Term(path).replaced_by == 5
    # The same decision again is written, too.
    with monkeypatch.context() as patch:
        patch.setattr("pilotstack._files.replace", fail)
        with pytest.raises(OSError, match="No space"):
            term.adopt("cluster", 7)
    term.adopt("cluster", 7)
    assert (Term(path).cluster, Term(path).number) == ("cluster", 7)


def test_the_largest_accepted_term_can_be_exceeded_by_promotions(tmp_path: Path) -> None:
    path = tmp_path / "term"
    term = Term(path)
    term.follow("127.0.0.1:1", None)
    term.adopt("cluster", MAX_TERM - 1)
    assert Term(path).lead()
    again = Term(path)
    assert (again.number, again.lead()) == (MAX_TERM, False)
