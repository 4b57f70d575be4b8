"""granian serves an ASGI application to agents through a Unix path. From a shell:
``granian --interface asgi --uds /tmp/web app:app``."""

from __future__ import annotations

import pathlib
import sys
import tempfile

import anyio

import pilotstack

HERE = pathlib.Path(__file__).parent


async def until_listening(path: pathlib.Path) -> None:
    """Waits for granian's workers."""
    while True:
        try:
            await (await anyio.connect_unix(path)).aclose()
        except OSError:
            await anyio.sleep(0.02)
        else:
            return


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "web")
        granian = [sys.executable, "-m", "granian", "--interface", "asgi", "--no-ws"]
        async with await anyio.open_process(
            [*granian, "--uds", str(path), "app:app"], cwd=HERE
        ) as server:
            try:
                await until_listening(path)
                async with pilotstack.Driver(socket) as driver, driver.listen(port, path=path):
                    await server.wait()
            finally:
                server.terminate()
