"""Two private agents come to trust each other.

    python trust.py answer agent-a agent-c      grants requests of these agents
    python trust.py ask agent-b "we work on the same report"

Trust takes the consent of both; afterwards each may dial the other, until one of them ends it.
"""

from __future__ import annotations

import sys

import anyio

import pilotstack

#: Seconds between looks at the requests that wait.
INTERVAL = 0.5


async def ask(peer: str, justification: str) -> None:
    """Asks for trust, waits for it and dials."""
    async with pilotstack.Driver() as driver:
        await driver.handshake(peer, justification)
        print(f"asked {peer}", flush=True)
        while not await driver.wait_for_trust(peer):
            print("still waiting", flush=True)
        async with driver.dial((peer, 7)) as stream:
            await stream.send(b"hello")
            print(f"trusted: {(await stream.receive()).decode()}", flush=True)


async def answer(friends: list[str]) -> None:
    """Grants requests of friends until every one of them is trusted."""
    async with pilotstack.Driver() as driver:
        awaited = {await driver.node_of(friend): friend for friend in friends}
        print("ready", flush=True)
        while awaited:
            for request in await driver.pending():
                # The justification is a stranger's text; only who asks decides.
                if request.node_id in awaited:
                    await driver.approve(request.node_id)
                    print(f"approved {awaited.pop(request.node_id)}", flush=True)
            await anyio.sleep(INTERVAL)


def main(command: str, *arguments: str) -> None:
    """Runs a command of the command line."""
    if command == "ask":
        peer, justification = arguments
        anyio.run(ask, peer, justification)
    else:
        anyio.run(answer, list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
