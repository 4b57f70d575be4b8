"""Every recipe of docs/how-to/recipes.md runs, with the library that it is about."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from benches.recipes import lines_of

import pilotstack
from pilotstack import sync
from pilotstack.errors import ConnectionRefused, StreamBroken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from pilotstack.testing import Network

pytestmark = pytest.mark.timeout(60)

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"

#: Those whose library tells the application who asks.
KNOWING = ["uvicorn", "fastapi", "aiohttp"]
SERVERS = [*KNOWING, "hypercorn", "granian"]
CALLERS = ["httpx", "httpx_sync", "aiohttp", "requests", "urllib3"]


@pytest.fixture(scope="module", autouse=True)
def on_path() -> Iterator[None]:
    sys.path.insert(0, str(RECIPES))
    yield
    sys.path.remove(str(RECIPES))


def recipe(name: str) -> Any:
    return importlib.import_module(name)


class Agents:
    """The sockets of two agents."""

    def __init__(self, network: Network) -> None:
        self.a, self.b = (str(network.nodes[name].socket) for name in ("agent-a", "agent-b"))
        self.address = network.nodes["agent-a"].address


def test_the_page_lists_every_recipe_and_its_lines() -> None:
    page = (RECIPES.parents[1] / "docs" / "how-to" / "recipes.md").read_text()
    listed = dict(re.findall(r"recipes/(\w+)\.py\).*?\| (\d+) \| [\d,]+ \|$", page, re.MULTILINE))
    lines = {path.stem: str(lines_of(path)) for path in RECIPES.glob("*.py")}
    # What servers share is no recipe.
    del lines["app"]
    assert listed == lines


@pytest.fixture
def agents(shared_network: Network) -> Agents:
    return Agents(shared_network)


async def until_served(socket: str, port: int) -> None:
    async with pilotstack.Driver(socket) as driver:
        while True:
            try:
                await (await driver.dial(("agent-b", port))).aclose()
            except (ConnectionRefused, StreamBroken):
                await asyncio.sleep(0)
            else:
                return


@asynccontextmanager
async def served(
    agents: Agents, port: int, serving: Coroutine[Any, Any, None]
) -> AsyncIterator[None]:
    task = asyncio.create_task(serving)
    ready = asyncio.create_task(until_served(agents.a, port))
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        await ready
        yield
    finally:
        ready.cancel()
        task.cancel()
        await asyncio.wait({task, ready})
        assert task.cancelled() or task.exception() is None


async def ask(module: Any, *arguments: str) -> str:
    """What a recipe's ``ask`` returns, async or not."""
    if asyncio.iscoroutinefunction(module.ask):
        answer: str = await module.ask(*arguments)
    else:
        answer = await asyncio.to_thread(module.ask, *arguments)
    return answer


@pytest.mark.asyncio
@pytest.mark.parametrize("name", SERVERS)
async def test_servers(agents: Agents, name: str) -> None:
    port = 8100 + SERVERS.index(name)
    async with served(agents, port, recipe(f"serve_{name}").serve(agents.b, port)):
        shown = await ask(recipe("call_httpx"), agents.a, f"http://agent-b:{port}/some/path")
    who = agents.address if name in KNOWING else "somebody"
    assert shown == f"hello {who}, this is /some/path"


@pytest.mark.asyncio
async def test_the_server_of_the_standard_library(agents: Agents) -> None:
    module = recipe("serve_http_server")
    with sync.Driver(agents.b) as driver, driver.listen() as listener:
        serving = asyncio.create_task(asyncio.to_thread(module.serve, listener))
        url = f"http://agent-b:{listener.port}/x"
        assert (
            await ask(recipe("call_httpx"), agents.a, url) == f"hello {agents.address}, this is /x"
        )
        listener.close()
        await serving


@pytest.mark.asyncio
@pytest.mark.parametrize("name", CALLERS)
async def test_callers(agents: Agents, name: str) -> None:
    port = 8200 + CALLERS.index(name)
    async with served(agents, port, recipe("serve_uvicorn").serve(agents.b, port)):
        shown = await ask(recipe(f"call_{name}"), agents.a, f"http://agent-b:{port}/x")
    assert shown == f"hello {agents.address}, this is /x"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "port"),
    [("asyncio_streams", 8301), ("websockets_", 8302), ("grpc_", 8303), ("mcp_", 8306)],
)
async def test_both_ends(agents: Agents, name: str, port: int) -> None:
    module = recipe(name)
    async with served(agents, port, module.serve(agents.b, port)):
        assert await ask(module, agents.a, f"agent-b:{port}", "hello, overlay") == "HELLO, OVERLAY"


@pytest.mark.asyncio
async def test_ssh_by_asyncssh_and_by_openssh(agents: Agents, tmp_path: Path) -> None:
    module, port = recipe("asyncssh_"), 8304
    async with served(agents, port, module.serve(agents.b, port)):
        assert await ask(module, agents.a, f"agent-b:{port}", "uptime") == "UPTIME"
        pilotctl = f"{sys.executable} -m pilotstack --socket {agents.a} connect %h %p"
        options = {
            "ProxyCommand": pilotctl,
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": tmp_path / "known",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
        }
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        ssh = await asyncio.create_subprocess_exec(
            *("ssh", "-F", "none", *flags, "-p", str(port), "agent@agent-b", "uptime"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert await ssh.communicate() == (b"UPTIME\n", b"")


@pytest.mark.asyncio
async def test_a2a(agents: Agents) -> None:
    module, port = recipe("a2a_"), 8305
    url = f"http://agent-b:{port}"
    async with served(agents, port, module.serve(agents.b, port, url)):
        assert await module.ask(agents.a, url, "hello, overlay") == "HELLO, OVERLAY"
