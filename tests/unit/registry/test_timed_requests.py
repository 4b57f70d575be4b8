"""Requests with a time: the same one may be made twice in a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.daemon.identity import Identity
from pilotstack.registry.client.requests import Requests
from pilotstack.registry.protocol.requests.members import KickMember

if TYPE_CHECKING:
    import pytest

    from pilotstack.registry.protocol.framing import Message


class Client(Requests):
    async def request(self, message: Message, *, wait: float = 0.0) -> Message:
        raise NotImplementedError


def test_two_equal_requests_of_one_second_have_different_signatures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000_000
    monkeypatch.setattr("time.time", lambda: now)
    client = Client(Identity.generate())
    kick = KickMember(network_id=1)
    made = [client.timed(kick) for _ in range(3)]
    assert [each.signed_at for each in made] == [now, now + 1, now + 2]
    assert len({each.signature_at for each in made}) == 3
    assert client.timed(KickMember(network_id=2)).signed_at == now
    now += 10
    assert client.timed(kick).signed_at == now
