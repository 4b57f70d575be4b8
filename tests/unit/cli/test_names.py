"""Names that a command keeps."""

from __future__ import annotations

from typing import Any

import pytest

from pilotstack.cli.names import keep_registered
from pilotstack.errors import AlreadyExists, ConnectionFailed, TimedOut
from pilotstack.services.nameserver import NameRecord
from pilotstack.types import Address

pytestmark = pytest.mark.anyio


class Nameserver:
    """Answers registrations in this order."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)

    async def register(self, record: Any) -> None:
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer


async def test_a_nameserver_that_is_away_is_tried_again_until_it_refuses() -> None:
    away = ConnectionFailed("no answer"), TimedOut("no answer in time")
    server = Nameserver(None, *away, None, AlreadyExists("taken"))
    told: list[str] = []
    record = NameRecord("alpha", Address(0, 7))
    with pytest.raises(AlreadyExists):
        await keep_registered(server, record, told.append, every=0)  # type: ignore[arg-type]
    assert told == [
        "alpha was not registered again: no answer",
        "alpha was not registered again: no answer in time",
    ]
    assert not server.answers
