"""The trust service performs effects against a scripted registry."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio.testing
from tests.unit.trust.model import identity_of

from pilotstack.errors import ConnectionFailed, NotFound
from pilotstack.registry.client import Record
from pilotstack.trust.messages import Kind, TrustMessage
from pilotstack.trust.records import Outgoing, Pending, ReportTrust, Trusted
from pilotstack.trust.service import CHECKED_FOR, REFUSED_FOR, TRUSTED_FOR, TrustService
from pilotstack.trust.state import Rows
from pilotstack.trust.store import TrustStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.anyio
KEY = identity_of(2).public_key


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Gate:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_admission(
        self,
        node: int,
        is_admitted: bool,
        seconds: float,
        *,
        network: int = 0,
        ports: Sequence[int] = (),
    ) -> None:
        self.calls.append((node, network, is_admitted, seconds, *ports))

    def expect_call(self, node: int) -> None:
        self.calls.append(("expect", node))

    def dismiss(self, node: int) -> None:
        self.calls.append(("dismiss", node))


class Registry:
    """Notes what it was told; refuses what ``errors`` names."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.errors: dict[str, Exception] = {}
        self.is_active: bool | None = False
        self.is_claimed: bool | None = True
        self.is_granted = False

    def _note(self, *call: Any) -> None:
        self.told.append(call)
        if error := self.errors.get(call[0]):
            raise error

    async def report_trust(self, peer: int) -> None:
        self._note("report", peer)

    async def revoke_trust(self, peer: int) -> None:
        self._note("revoke", peer)

    async def respond_handshake(self, peer: int, *, accept: bool) -> None:
        self._note("respond", peer, accept)

    async def request_handshake(self, peer: int, justification: str) -> None:
        self._note("request", peer, justification)

    async def check_trust(self, peer: int) -> bool | None:
        self._note("check", peer)
        return self.is_active

    async def grants_trust(self, peer: int) -> bool:
        self._note("grants", peer)
        return self.is_granted

    async def claims_trust(self, peer: int) -> bool | None:
        self._note("claims", peer)
        return self.is_claimed


class Fixture:
    def __init__(self, path: Path, rows: Rows | None = None) -> None:
        store = TrustStore(path / "trust.json")
        if rows is not None:
            store.save(rows)
        self.gate, self.registry = Gate(), Registry()
        self.record = Record(2, KEY, public=False, hostname="", endpoint="")
        self.service = TrustService(
            self.registry,  # type: ignore[arg-type]
            identity_of(1),
            self.gate,
            store,
            self.profile,
            lambda _: None,
        )
        self.service.trust.own = 1

    async def profile(self, node: int, max_age: float) -> Record:
        del node, max_age
        return self.record


def trusting() -> Rows:
    return Rows.of(trusted=[Trusted(2, KEY, 0, mutual=True)])


@pytest.mark.parametrize(
    ("rows", "network", "key", "is_active", "verdict"),
    [
        (trusting(), 0, KEY, False, (2, 0, True, TRUSTED_FOR)),
        (None, 0, KEY, True, (2, 0, True, CHECKED_FOR)),
        (None, 0, KEY, False, (2, 0, False, REFUSED_FOR)),
        (None, 0, KEY, None, (2, 0, False, REFUSED_FOR)),
        (trusting(), 0, bytes(32), False, (2, 0, False, REFUSED_FOR)),
        (trusting(), 9, KEY, True, (2, 9, False, REFUSED_FOR)),
        (None, 7, KEY, False, (2, 7, True, CHECKED_FOR)),
    ],
)
async def test_a_caller_is_admitted_by_trust_or_a_shared_network(
    tmp_path: Path,
    rows: Rows | None,
    network: int,
    key: bytes,
    is_active: bool | None,
    verdict: tuple[object, ...],
) -> None:
    fixture = Fixture(tmp_path, rows)
    fixture.registry.is_active = is_active
    fixture.record = Record(2, KEY, False, "", "", frozenset({0, 7}))
    await fixture.service.admit(2, network, key)
    assert fixture.gate.calls[-1] == verdict


@pytest.mark.parametrize(
    ("is_claimed", "is_granted", "ports"),
    [(False, False, (7,)), (True, False, (7,)), (True, True, ())],
)
async def test_who_only_shares_a_network_has_its_ports_on_the_backbone(
    tmp_path: Path, is_claimed: bool, is_granted: bool, ports: tuple[int, ...]
) -> None:
    async def ports_of(networks: frozenset[int]) -> tuple[int, ...]:
        assert networks == {7}
        return (7,)

    fixture = Fixture(tmp_path)
    fixture.service.ports_of = ports_of
    fixture.service.trust.networks = frozenset({0, 7})
    fixture.registry.is_active = True
    fixture.registry.is_claimed, fixture.registry.is_granted = is_claimed, is_granted
    fixture.record = Record(2, KEY, False, "", "", frozenset({0, 7, 9}))
    await fixture.service.admit(2, 0, KEY)
    assert fixture.gate.calls == [(2, 0, True, CHECKED_FOR, *ports)]


async def test_a_changed_key_is_dismissed_before_the_verdict(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, trusting())
    await fixture.service.admit(2, 0, bytes(32))
    assert fixture.gate.calls[0] == ("dismiss", 2)
    assert ("revoke", 2) in fixture.registry.told
    assert not TrustStore(tmp_path / "trust.json").load().trusted


async def test_nobody_is_admitted_while_the_registry_is_unreachable(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    fixture.registry.errors["check"] = ConnectionFailed("away")
    await fixture.service.admit(2, 0, KEY)
    assert fixture.gate.calls == [(2, 0, False, REFUSED_FOR)]


async def test_an_undeliverable_request_is_withdrawn(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    fixture.registry.errors["request"] = NotFound("node 2: node not found")
    with pytest.raises(NotFound, match="handshake relay: node 2: node not found"):
        await fixture.service.request(2, "hi")
    assert not fixture.service.trust.rows.outgoing
    del fixture.registry.errors["request"]
    assert await fixture.service.request(2, "hi")
    assert ("expect", 2) in fixture.gate.calls
    assert TrustStore(tmp_path / "trust.json").load().outgoing.keys() == {2}


@pytest.mark.parametrize(
    ("is_active", "is_claimed", "is_restored", "is_revoked"),
    [
        (True, True, True, False),
        # A registry of another kind, which tells of pairs only.
        (True, None, True, False),
        # One that cannot tell anything.
        (None, None, False, False),
        # A shared network, or the consent of one side.
        (True, False, False, True),
        (False, False, False, True),
    ],
)
async def test_an_approval_offered_again_never_ends_a_pair_that_the_registry_has(
    tmp_path: Path,
    is_active: bool | None,
    is_claimed: bool | None,
    is_restored: bool,
    is_revoked: bool,
) -> None:
    fixture = Fixture(tmp_path)
    fixture.registry.is_active, fixture.registry.is_claimed = is_active, is_claimed
    await fixture.service.relayed_response(2, True, int(time.time()))
    assert fixture.service.trust.is_trusted(2) == is_restored
    assert (("revoke", 2) in fixture.registry.told) == is_revoked
    assert (2 in TrustStore(tmp_path / "trust.json").load().trusted) == is_restored


async def test_without_an_answer_of_the_registry_nothing_is_revoked(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    fixture.registry.errors["check"] = ConnectionFailed("away")
    await fixture.service.relayed_response(2, True, int(time.time()))
    assert fixture.registry.told == [("check", 2)]


async def test_the_same_request_runs_once(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    started, going = anyio.Event(), anyio.Event()

    async def slow(peer: int, justification: str) -> None:
        del peer, justification
        started.set()
        await going.wait()

    fixture.registry.request_handshake = slow  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fixture.service.request, 2, "hi")
        await started.wait()
        assert not await fixture.service.request(2, "hi")
        going.set()
    assert await fixture.service.request(2, "hi")


async def test_failed_reports_are_retried_unless_superseded(
    tmp_path: Path,
) -> None:
    fixture = Fixture(tmp_path, trusting())
    fixture.registry.errors = {
        name: ConnectionFailed("away") for name in ("report", "revoke", "respond")
    }
    await fixture.service.registered()
    assert fixture.registry.told == [("report", 2), ("check", 2), ("claims", 2)]
    await fixture.service.revoke(2)
    fixture.registry.errors.clear()
    fixture.registry.told.clear()
    await fixture.service.alive()
    await fixture.service.alive()
    assert fixture.registry.told == [("revoke", 2)]


@pytest.mark.parametrize("is_active", [True, False])
async def test_a_relayed_approval_is_confirmed(tmp_path: Path, is_active: bool) -> None:
    fixture = Fixture(tmp_path, Rows.of(outgoing=[Outgoing(2, 1)]))
    fixture.registry.is_active = is_active
    await fixture.service.relayed_response(2, True, 5)
    assert fixture.service.trust.is_trusted(2) == is_active
    asked = [("check", 2)] if is_active else [("check", 2), ("report", 2), ("check", 2)]
    assert fixture.registry.told[: len(asked)] == asked


async def test_a_pair_without_a_relayed_answer_is_accepted(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, Rows.of(outgoing=[Outgoing(2, 1)]))
    fixture.registry.is_active = True
    await fixture.service.catch_up()
    assert fixture.service.trust.is_trusted(2)


async def test_a_revocation_missed_while_offline_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = Fixture(tmp_path, trusting())
    clock = 1_800_000_000.0
    monkeypatch.setattr("pilotstack.trust.service.time.time", lambda: clock)
    fixture.record = Record(2, KEY, False, "", "", frozenset(), int(clock))
    await fixture.service.registered()
    assert fixture.service.trust.is_trusted(2)
    clock += 300
    fixture.record = Record(2, KEY, False, "", "", frozenset(), int(clock))
    await fixture.service.registered()
    assert not fixture.service.trust.is_trusted(2)
    assert ("dismiss", 2) in fixture.gate.calls


async def test_a_full_disk_does_not_stop_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = Fixture(tmp_path)
    await fixture.service.relayed_request(2, "hi")

    def refuse(self: TrustStore, rows: Rows) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TrustStore, "save", refuse)
    assert await fixture.service.approve(2)
    monkeypatch.undo()
    await fixture.service.key_seen(2, bytes(32))
    assert not TrustStore(tmp_path / "trust.json").load().trusted


async def test_waiting_ends_with_trust_or_with_the_time(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    await fixture.service.relayed_request(2, "hi")
    assert not await fixture.service.wait(2, 5)
    async with anyio.create_task_group() as tasks:

        async def approve() -> None:
            await fixture.service.approve(2)

        tasks.start_soon(approve)
        assert await fixture.service.wait(2, 30)


def request_of(sender: int, receiver: int, *, at: float) -> TrustMessage:
    signer = identity_of(sender)
    signature = signer.sign(f"handshake:{sender}:{receiver}".encode())
    return TrustMessage(Kind.REQUEST, sender, signer.public_key, signature, int(at), "again")


@pytest.mark.parametrize(
    ("is_active", "is_claimed", "is_reported", "is_lost"),
    [
        (True, True, True, False),
        # It did not hear of our approval.
        (False, True, True, False),
        # It revoked, which took our report away.
        (False, False, True, True),
        # A registry of the second generation knows the pair only.
        (False, None, True, True),
        (False, None, False, False),
        # One of the first cannot tell.
        (None, None, True, False),
    ],
)
@pytest.mark.parametrize("is_relayed", [True, False])
async def test_a_request_from_a_trusted_peer_triggers_a_check(
    tmp_path: Path,
    is_active: bool | None,
    is_claimed: bool | None,
    is_reported: bool,
    is_lost: bool,
    is_relayed: bool,
) -> None:
    fixture = Fixture(tmp_path, trusting())
    if is_reported:
        await fixture.service.perform((ReportTrust(2),))
    fixture.registry.is_active, fixture.registry.is_claimed = is_active, is_claimed
    if is_relayed:
        await fixture.service.relayed_request(2, "again")
    else:
        effects = await fixture.service._judge(2, request_of(2, 1, at=time.time()))
        assert effects is not None
        await fixture.service.perform(effects)
    rows = fixture.service.trust.rows
    assert (2 in rows.trusted, 2 in rows.pending) == (not is_lost, is_lost)
    assert (("dismiss", 2) in fixture.gate.calls) == is_lost


async def test_a_relayed_revocation_ends_only_earlier_trust(tmp_path: Path) -> None:
    rows = Rows.of(trusted=[Trusted(2, KEY, 100, mutual=True), Trusted(3, KEY, 300, mutual=True)])
    fixture = Fixture(tmp_path, rows)
    for peer in (2, 3, 4):
        await fixture.service.relayed_revocation(peer, 200)
    assert set(fixture.service.trust.rows.trusted) == {3}
    # The registry has taken our report away itself.
    assert fixture.registry.told == []
    assert fixture.gate.calls == [("dismiss", 2)]


async def test_a_registry_that_lost_our_report_ends_no_trust(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, trusting())
    await fixture.service.perform((ReportTrust(2),))
    fixture.registry.is_claimed = False
    await fixture.service.compare()
    assert fixture.service.trust.is_trusted(2)
    fixture.registry.is_claimed = None
    await fixture.service.compare()
    assert not fixture.service.trust.is_trusted(2)


async def test_an_approval_that_was_not_relayed_is_found(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, Rows.of(outgoing=[Outgoing(2, 1)]))
    await fixture.service.catch_up()
    assert fixture.registry.told == [("check", 2), ("grants", 2)]
    fixture.registry.is_granted = True
    fixture.registry.told.clear()
    await fixture.service.catch_up()
    assert ("report", 2) in fixture.registry.told


async def test_a_dropped_message_is_not_accepted(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    old = request_of(2, 1, at=time.time() - 3600)
    assert await fixture.service._judge(2, old) is None
    assert await fixture.service._judge(3, request_of(2, 1, at=time.time())) is None
    fixture.record = Record(2, bytes(32), public=False, hostname="", endpoint="")
    assert await fixture.service._judge(2, request_of(2, 1, at=time.time())) is None
    assert fixture.service.trust.dropped == {"stale": 1, "source": 1, "key": 1}


@pytest.mark.parametrize("is_restarted", [True, False])
@pytest.mark.parametrize("days", [40, -40])
async def test_a_wall_clock_step_expires_no_pending_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, is_restarted: bool
) -> None:
    now = time.time()
    rows = Rows.of(
        pending=[Pending(2, KEY, "hello", int(now))], outgoing=[Outgoing(3, int(now) - 60)]
    )
    fixture = Fixture(tmp_path, rows)
    monkeypatch.setattr(time, "time", lambda: now + days * 86_400)
    if is_restarted:
        fixture = Fixture(tmp_path)
    service = fixture.service
    assert service.trust.expire(service.age()) == ()
    assert (set(service.trust.rows.pending), set(service.trust.rows.outgoing)) == ({2}, {3})
    # Time that passes ends them.
    assert service.trust.expire(service.age() + 81 * 86_400) != ()
