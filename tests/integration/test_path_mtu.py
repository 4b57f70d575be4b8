"""Path MTU discovery behind a real router, with its ICMP messages and without."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest
from tests.support.namespaces import Routed, inside

from pilotstack import Driver
from pilotstack.testing import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Interface, IPv6Interface
    from pathlib import Path

    from pilotstack import Stream

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nft") is None,
        reason="network namespaces need root, iproute2 and nftables",
    ),
]
#: Octets around a segment in an IP packet, without IP's header.
AROUND = 8 + 70
LINKS = {4: ("10.77.1.2/24", "10.77.2.2/24", 20), 6: ("fd77:1::2/64", "fd77:2::2/64", 40)}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


#: Version of IP, MTU of the link, and the segment that fills it. IPv6 needs 1,280 bytes.
HOLES = [(4, 1280, 1152), (4, 1124, 1026), (4, 900, 802), (4, 600, 502), (6, 1280, 1152)]


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> Iterator[tuple[Routed, int]]:
    """Two hosts, and what remains of a link for a segment."""
    left, right, header = LINKS[request.param]
    with Routed(left, right) as hosts:
        yield hosts, header + AROUND


def at(host: IPv4Interface | IPv6Interface, port: int) -> str:
    return f"[{host.ip}]:{port}" if host.version == 6 else f"{host.ip}:{port}"


@pytest.fixture
def sockets(hosts: tuple[Routed, int], tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Daemons on both hosts; the rendezvous is on the left one."""
    routed, _ = hosts
    registry = at(routed.left, 9000)
    with ExitStack() as stack:

        def start(kind: str, name: str, namespace: str, *flags: str) -> None:
            log = tmp_path / f"{name}.log"
            process = Process(kind, list(flags), log, prefix=inside(namespace))
            stack.callback(process.stop)

        start(
            "rendezvous",
            "rendezvous",
            routed.left_name,
            *("--registry-addr", registry, "--beacon-addr", at(routed.left, 9001)),
            *("--store", str(tmp_path / "registry.json")),
        )
        paths = tmp_path / "a.sock", tmp_path / "b.sock"
        for path, name, namespace, host in zip(
            paths,
            "ab",
            (routed.left_name, routed.right_name),
            (routed.left, routed.right),
            strict=True,
        ):
            start(
                "daemon",
                name,
                namespace,
                *("--registry", registry, "--beacon", "", "--hostname", name, "--public"),
                *("--listen", at(host, 4000), "--endpoint", at(host, 4000)),
                *("--socket", str(path)),
            )
        yield paths


async def move(driver: Driver, stream: Stream, accepted: Stream, until: int) -> None:
    """Moves data until segments have this size."""
    with anyio.fail_after(20):
        while True:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, bytes(200_000))
                left = 200_000
                while left:
                    left -= len(await accepted.receive())
            row = next(row for row in await driver.connections() if row.id == stream.connection_id)
            if row.max_segment == until:
                return


@pytest.mark.parametrize("hosts", [4, 6], indirect=True)
async def test_icmp_fills_the_link_to_the_byte(
    hosts: tuple[Routed, int], sockets: tuple[Path, Path]
) -> None:
    routed, around = hosts
    routed.set_mtu(1333)
    async with (
        Driver(sockets[0]) as a,
        Driver(sockets[1]) as b,
        await b.listen(1000) as listener,
        await a.dial("b:1000") as stream,
        await listener.accept() as accepted,
    ):
        await move(a, stream, accepted, 1333 - around)
        # It becomes narrower under the stream.
        routed.set_mtu(1300)
        await move(a, stream, accepted, 1300 - around)
        # The right host's own link: its kernel tells, no router need.
        await move(b, accepted, stream, 1300 - around)


@pytest.mark.parametrize(("hosts", "mtu", "segment"), HOLES, indirect=["hosts"])
async def test_a_megabyte_passes_a_narrow_link_without_icmp(
    hosts: tuple[Routed, int], sockets: tuple[Path, Path], mtu: int, segment: int
) -> None:
    hosts[0].make_hole(mtu)
    async with (
        Driver(sockets[0]) as a,
        Driver(sockets[1]) as b,
        await b.listen(1000) as listener,
        await a.dial("b:1000") as stream,
        await listener.accept() as accepted,
    ):
        sent = bytes(range(256)) * 4096
        received = bytearray()
        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, sent)
                while len(received) < len(sent):
                    received += await accepted.receive()
        assert received == sent
        await move(a, stream, accepted, segment)


@pytest.mark.parametrize(("hosts", "mtu", "segment"), HOLES, indirect=["hosts"])
async def test_a_hole_in_the_middle_of_a_stream_is_found_without_icmp(
    hosts: tuple[Routed, int], sockets: tuple[Path, Path], mtu: int, segment: int
) -> None:
    async with (
        Driver(sockets[0]) as a,
        Driver(sockets[1]) as b,
        await b.listen(1000) as listener,
        await a.dial("b:1000") as stream,
        await listener.accept() as accepted,
    ):
        await move(a, stream, accepted, 1500 - hosts[1])
        hosts[0].make_hole(mtu)
        await move(a, stream, accepted, segment)
