"""Port 444 without a daemon."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.support.logs import captured_logs

from pilotstack import _serving
from pilotstack.trust.handshake import HandshakePort

if TYPE_CHECKING:
    from pilotstack.client import Stream


class Incoming:
    """A stream with one message."""

    remote_address = SimpleNamespace(address=SimpleNamespace(node=7))

    async def __aenter__(self) -> Incoming:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def receive(self) -> bytes:
        return (
            b'{"type":"handshake_request","node_id":7,"public_key":"","justification":"",'
            b'"signature":"","timestamp":1}'
        )

    async def aclose(self) -> None:
        pass


@pytest.mark.anyio
async def test_failing_messages_do_not_fill_the_log() -> None:
    async def judge(peer: int, message: object) -> Any:
        raise RuntimeError("a defect")

    async def perform(effects: object) -> None:
        pytest.fail("nothing came of it")

    port, before = HandshakePort(judge, perform), _serving.failures.counts["handshake"]
    with captured_logs() as lines:
        for _ in range(100):
            await port._serve(cast("Stream", Incoming()))
    assert _serving.failures.counts["handshake"] == before + 100
    assert len(lines) <= 1
