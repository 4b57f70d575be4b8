"""What a node tells about itself on port 1."""

from __future__ import annotations

import pytest
from tests.unit.services.streams import pipe

from pilotstack import wellknown
from pilotstack.errors import ConnectionFailed
from pilotstack.services import status
from pilotstack.services.limits import Limited
from pilotstack.services.status import Service, Status
from pilotstack.types import Address, SocketAddress

pytestmark = pytest.mark.anyio

STATUS = Status(
    address=Address(0, 3),
    hostname="agent-a",
    version="1.2.3",
    uptime_secs=60,
    services=(Service(0, "liveness"), Service(7, "echo")),
)


def test_a_status_is_read_as_it_was_written() -> None:
    assert status.decode(status.encode(STATUS)) == STATUS
    assert status.encode(STATUS).startswith(b'{"status":"ok","protocol":"pilot","address":"0:0000')


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"ok",
        b"[]",
        b"[" * 50_000,
        b'{"status":"ok"}',
        b'{"status":"no","address":"0:0000.0000.0003","version":"1","uptime_secs":1}',
        b'{"status":"ok","address":"banana","version":"1","uptime_secs":1}',
        b'{"status":"ok","address":3,"version":"1","uptime_secs":1}',
        b'{"status":"ok","address":"0:0000.0000.0003","version":"1","uptime_secs":-1}',
        b'{"status":"ok","address":"0:0000.0000.0003","version":"%s","uptime_secs":1}'
        % (b"v" * 256),
        b'{"status":"ok","address":"0:0000.0000.0003","version":"1","uptime_secs":1,"services":'
        b'[{"port":65536,"name":"x"}]}',
        b'{"status":"ok","address":"0:0000.0000.0003","version":"\xff","uptime_secs":1}',
    ],
)
def test_a_malformed_status_is_refused(answer: bytes) -> None:
    with pytest.raises(ConnectionFailed):
        status.decode(answer)


async def test_each_stream_is_answered_and_ended() -> None:
    ours, theirs = pipe()
    async with ours:
        await status.handler(lambda: STATUS)(theirs)  # type: ignore[arg-type]
        assert status.decode(b"".join([chunk async for chunk in ours])) == STATUS


async def test_one_peer_cannot_take_every_seat() -> None:
    served: list[int] = []
    reset: list[int] = []

    async def handler(stream: object) -> None:
        served.append(stream.remote_address.address.node)  # type: ignore[attr-defined]
        if len(served) <= 3:
            # While this one is served, others come.
            await arrive(len(served) // 2 + 1)

    async def abort(stream: object) -> None:
        reset.append(stream.remote_address.address.node)  # type: ignore[attr-defined]

    async def arrive(node: int) -> None:
        ours, theirs = pipe(dialler=SocketAddress(Address(0, node), 5))
        async with ours, theirs:
            await limited(theirs)  # type: ignore[arg-type]

    limited = Limited(handler, abort, total=3, per_peer=2)
    await arrive(1)
    # Node 1, node 1, node 2; and the fourth found none.
    assert served == [1, 1, 2]
    assert reset == [2]
    assert limited.refused == 1
    assert limited.streams == 0


def test_well_known_ports_have_names() -> None:
    assert list(wellknown.SERVICES) == [0, 1, 7, 53, 80, 443, 444, 1000, 1001, 1002, 1010]
