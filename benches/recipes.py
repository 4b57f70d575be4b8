"""Lines and throughput of each recipe of docs/how-to/recipes.md: `python benches/recipes.py`.

Lines are those of the recipe without its docstrings, comments and blank lines. Throughput is that
of requests one after the other on one connection where the library keeps one, from a process of
its own over two daemons on this host: of `ask` for recipes with two ends, of httpx for servers,
of uvicorn for callers.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import io
import sys
import time
import tokenize
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

import pilotstack
import pilotstack.httpx
from pilotstack import sync
from pilotstack.errors import PilotError
from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
SECONDS = 3.0
SERVERS = ("uvicorn", "fastapi", "aiohttp", "hypercorn", "granian")
CALLERS = ("httpx", "httpx_sync", "aiohttp", "requests", "urllib3")
BOTH = ("asyncio_streams", "websockets_", "grpc_", "asyncssh_", "mcp_")


def lines_of(path: Path) -> int:
    """Lines of code of a file."""
    text = path.read_text()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type
        not in {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
        for line in range(token.start[0], token.end[0] + 1)
        if token.type != tokenize.ENDMARKER
    }
    return len(code - docstrings)


def show(name: str, rate: float) -> None:
    """Prints a row."""
    print(f"{name:20} {lines_of(RECIPES / f'{name}.py'):4} lines {rate:8.0f}/s", flush=True)


async def rate_of(ask: Callable[[], Awaitable[object]]) -> float:
    """Calls per second."""
    await ask()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        await ask()
        count += 1
    return count / (time.perf_counter() - begin)


async def until_served(driver: pilotstack.Driver, port: int) -> None:
    """Returns when something listens."""
    while True:
        with suppress(PilotError):
            await (await driver.dial(("agent-b", port))).aclose()
            return
        await asyncio.sleep(0.05)


async def ended(task: asyncio.Task[None]) -> None:
    """Ends a server."""
    task.cancel()
    await asyncio.wait({task})


async def servers(a: str, b: str) -> None:
    """Each server, asked by httpx."""
    async with pilotstack.Driver(a) as driver:
        for number, name in enumerate(SERVERS):
            port = 8100 + number
            serve = importlib.import_module(f"serve_{name}").serve
            task = asyncio.create_task(serve(b, port))
            await until_served(driver, port)
            transport = pilotstack.httpx.AsyncTransport(driver)
            async with httpx.AsyncClient(transport=transport) as web:
                url = f"http://agent-b:{port}/"
                show(f"serve_{name}", await rate_of(partial(web.get, url)))
            await ended(task)
        with sync.Driver(b) as plain, plain.listen() as listener:
            serve = importlib.import_module("serve_http_server").serve
            task = asyncio.create_task(asyncio.to_thread(serve, listener))
            transport = pilotstack.httpx.AsyncTransport(driver)
            async with httpx.AsyncClient(transport=transport) as web:
                url = f"http://agent-b:{listener.port}/"
                show("serve_http_server", await rate_of(partial(web.get, url)))
            listener.close()
            await asyncio.wait({task})


async def callers(a: str, b: str) -> None:
    """Each caller, which opens a connection for each call, as the recipes do."""
    port = 8200
    task = asyncio.create_task(importlib.import_module("serve_uvicorn").serve(b, port))
    async with pilotstack.Driver(a) as driver:
        await until_served(driver, port)
    url = f"http://agent-b:{port}/"
    for name in CALLERS:
        found: Any = importlib.import_module(f"call_{name}").ask
        if inspect.iscoroutinefunction(found):
            show(f"call_{name}", await rate_of(partial(found, a, url)))
        else:
            show(f"call_{name}", await rate_of(partial(asyncio.to_thread, found, a, url)))
    await ended(task)


async def both(a: str, b: str) -> None:
    """Each recipe with two ends, which opens a connection for each call."""
    async with pilotstack.Driver(a) as driver:
        for number, name in enumerate((*BOTH, "a2a_")):
            port, module = 8300 + number, importlib.import_module(name)
            url = f"http://agent-b:{port}"
            more = (url,) if name == "a2a_" else ()
            task = asyncio.create_task(module.serve(b, port, *more))
            await until_served(driver, port)
            target = url if more else f"agent-b:{port}"
            show(name, await rate_of(partial(module.ask, a, target, "hello")))
            await ended(task)


def main() -> None:
    """Measures."""
    sys.path.insert(0, str(RECIPES))
    with Network() as net:
        a, b = (str(net.start(name).socket) for name in ("agent-a", "agent-b"))
        for part in (servers, callers, both):
            asyncio.run(part(a, b))


if __name__ == "__main__":
    main()
