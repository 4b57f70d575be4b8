"""An echo server and its client on asyncio.

python echo.py serve [PORT]
python echo.py dial agent-b:1000 "some text"
"""

from __future__ import annotations

import asyncio
import sys

import anyio

import pilotstack


async def echo(stream: pilotstack.Stream) -> None:
    """Sends back what arrives, until the client has finished."""
    async with stream:
        async for chunk in stream:
            await stream.send(chunk)


async def serve(port: int) -> None:
    """Serves until the process ends. Each stream has a task of its own."""
    async with pilotstack.listen(port) as listener:
        print(f"serving port {listener.port}", flush=True)
        await listener.serve(echo)


async def dial(target: str, text: str) -> None:
    """Sends a text and prints what comes back."""
    async with pilotstack.dial(target) as stream:
        await stream.send(text.encode())
        # Half-close: the server sees the end of the request and can still answer.
        await stream.send_eof()
        answer = b""
        try:
            while True:
                answer += await stream.receive()
        except anyio.EndOfStream:
            print(answer.decode())


def main(command: str, *arguments: str) -> None:
    """Runs a command of the command line."""
    if command == "serve":
        asyncio.run(serve(int(arguments[0]) if arguments else 1000))
    else:
        asyncio.run(dial(*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
