"""``pilotctl demo --nat``: two agents behind two NATs, in network namespaces of this machine."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from pilotstack import wellknown
from pilotstack.cli.demo_steps import ping, serve_http, show_info, transfer
from pilotstack.client import Driver
from pilotstack.errors import Unavailable
from pilotstack.testing.internet import KINDS, Agents, Internet, missing_requirement

if TYPE_CHECKING:
    from pilotstack.cli.demo_steps import Demo
    from pilotstack.ipc.answers import PeerInfo
    from pilotstack.testing.internet import Agent

_KIND = "port-restricted"
#: Seconds until the demo no longer waits for a direct path, and between looks.
_PATIENCE = 15.0
_LOOK_AGAIN = 0.01


async def steps(run: Demo) -> None:
    """Builds the network, uses it and removes it."""
    if missing := missing_requirement("nft"):
        raise Unavailable(
            f"network namespaces need {missing}",
            hint="run it as root, with iproute2 and nftables installed",
        )
    stack = ExitStack()
    try:
        nodes = await to_thread.run_sync(_set_up, stack, run)
        a, b = (Driver(node.socket) for node in nodes)
        async with a, b:
            await show_info(a, b, run)
            await reach(a, nodes[1].node_id, run)
            await ping(a, b, run)
            await serve_http(a, b, run)
            await transfer(a, b, run)
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(stack.close)


def _set_up(stack: ExitStack, run: Demo) -> list[Agent]:
    internet = stack.enter_context(Internet("pilotdemo"))
    agents = stack.enter_context(Agents())
    server = internet.public("rendezvous")
    agents.rendezvous(server)
    run.done("rendezvous", f"registry and beacon on {server.ipv4}", address=server.ipv4)
    homes = [internet.home(f"home-{side}", KINDS[_KIND]) for side in "ab"]
    hosts = [home.host(f"agent-{side}") for home, side in zip(homes, "ab", strict=True)]
    run.done(
        "homes",
        "; ".join(
            f"{host.role} is {host.ipv4} behind {home.router.ipv4}"
            for host, home in zip(hosts, homes, strict=True)
        )
        + f" (NATs: {KINDS[_KIND].text})",
        nat=_KIND,
        homes={home.router.ipv4: host.ipv4 for host, home in zip(hosts, homes, strict=True)},
    )
    nodes = [agents.start(host.role, host) for host in hosts]
    run.done(
        "daemons",
        ", ".join(f"{node.name} is {node.address}" for node in nodes),
        addresses={node.name: node.address for node in nodes},
    )
    return nodes


async def reach(client: Driver, node: int, run: Demo) -> None:
    """Dials through both NATs: the first byte goes as it can, the later ones as they should."""
    begin = time.perf_counter()

    def elapsed() -> float:
        return round((time.perf_counter() - begin) * 1000, 1)

    async with await client.dial(f"agent-b:{wellknown.ECHO_PORT}", no_delay=True) as stream:
        await stream.send(b"hello")
        await stream.receive()
        first_byte = elapsed()
        first = row = await _row_of(client, node)
        with anyio.move_on_after(_PATIENCE):
            while row.relay:
                await stream.send(b"hello")
                await stream.receive()
                await anyio.sleep(_LOOK_AGAIN)
                row = await _row_of(client, node)
        direct = None if row.relay else elapsed()
    way = "through the relay" if first.relay else "directly"
    then = f"a direct path to {row.endpoint} after {direct:.0f} ms" if direct else "no direct path"
    run.done(
        "reach",
        f"the first byte came back after {first_byte:.0f} ms, {way}; {then}",
        first_path=first.path,
        first_byte_ms=first_byte,
        path=row.path,
        endpoint=row.endpoint,
        direct_ms=direct,
        upgraded=first.relay and not row.relay,
    )


async def _row_of(client: Driver, node: int) -> PeerInfo:
    return next(row for row in await client.peers() if row.node_id == node)
