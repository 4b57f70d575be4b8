"""Programs that know nothing of the overlay: curl, uvicorn, httpx."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

from pilotstack import Driver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pilotstack.testing import Network

    Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: object, send: Send) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello from " + scope["path"].encode()})


async def curl(path: Path, url: str) -> tuple[bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--max-time", "20", "--unix-socket", str(path), url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await process.communicate()


@pytest.mark.asyncio
async def test_curl_and_httpx_reach_uvicorn_through_unix_paths(
    shared_network: Network, tmp_path: Path
) -> None:
    a, b = (shared_network.nodes[name] for name in ("agent-a", "agent-b"))
    served, forwarded = tmp_path / "served", tmp_path / "forwarded"
    config = uvicorn.Config(app, uds=str(served), lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    async with Driver(a.socket) as client, Driver(b.socket) as host, asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve([listening]))
        async with await host.listen(8080, path=served):
            await client.forward(forwarded, "agent-b:8080")
            assert await curl(forwarded, "http://agent-b/curl") == (b"hello from /curl", b"")
            transport = httpx.AsyncHTTPTransport(uds=str(forwarded))
            async with httpx.AsyncClient(transport=transport) as http:
                answers = await asyncio.gather(*(http.get(f"http://agent-b/{n}") for n in range(3)))
            assert [answer.text for answer in answers] == [f"hello from /{n}" for n in range(3)]
        server.should_exit = True
    listening.close()
