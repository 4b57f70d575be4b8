"""A chat over datagrams: each line of the standard input goes to all other agents that are named.

    python chat.py agent-a agent-b agent-c

Datagrams may be lost, as over UDP; a chat can live with that, and needs no connections.
"""

from __future__ import annotations

import sys

import anyio

import pilotstack

PORT = 2000


async def show(datagrams: pilotstack.DatagramSocket) -> None:
    """Prints what others say."""
    async for datagram in datagrams:
        # Text of others: escapes such as \\x1b must not reach the terminal.
        text = datagram.data.decode(errors="replace")
        shown = "".join(char for char in text if char.isprintable())
        print(f"{datagram.source.address}: {shown}", flush=True)


async def chat(others: list[str]) -> None:
    """Talks until the standard input ends."""
    async with pilotstack.Driver() as driver, driver.datagram(PORT) as datagrams:
        own = (await driver.info()).address
        print(f"this is {own}", flush=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(show, datagrams)
            async for line in anyio.wrap_file(sys.stdin):
                for other in others:
                    await datagrams.send_to(line.strip().encode(), (other, PORT))
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(chat, sys.argv[1:])
