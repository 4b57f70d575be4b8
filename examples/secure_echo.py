"""An echo server on the secure channel: what arrives is decrypted, and sent back encrypted.

python secure_echo.py [PORT]

Its client: pilotctl connect --secure agent-b
"""

from __future__ import annotations

import sys

import anyio

import pilotstack
from pilotstack import wellknown
from pilotstack.services import secure


async def echo(channel: secure.SecureStream) -> None:
    """Sends back what arrives, until the client has finished."""
    async with channel:
        async for chunk in channel:
            await channel.send(chunk)


async def main(port: int) -> None:
    """Serves until the process ends."""
    async with pilotstack.listen(port) as listener:
        print(f"secure echo on port {listener.port}", flush=True)
        await secure.serve(listener, echo)


anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else wellknown.SECURE_PORT)
