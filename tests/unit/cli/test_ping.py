"""Why a probe of ``pilotctl ping`` failed."""

from __future__ import annotations

import anyio
import pytest

from pilotstack.cli.traffic import _failure
from pilotstack.errors import ConnectionFailed, PilotError, TimedOut


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (anyio.EndOfStream(), ConnectionFailed, "it closed the stream"),
        (TimeoutError(), TimedOut, "no answer in time"),
        (anyio.BrokenResourceError("reset"), TimedOut, "reset"),
    ],
)
def test_a_stream_that_the_peer_closed_is_no_timeout(
    error: Exception, kind: type[PilotError], text: str
) -> None:
    failure = _failure("agent-b", error)
    assert type(failure) is kind
    assert failure.message == f"agent-b does not answer: {text}"
