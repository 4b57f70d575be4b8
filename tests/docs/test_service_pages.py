"""The programs of the pages for services run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pilotstack.testing import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.testing import Network

ROOT = Path(__file__).parents[2]

#: What runs both ends of the page on the secure channel.
_BOTH = """
import anyio

async def main():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        while True:
            try:
                print(await ask())
                break
            except ConnectionRefusedError:
                await anyio.sleep(0)
        tasks.cancel_scope.cancel()

anyio.run(main)
"""


def program(page: str) -> str:
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert len(found) == 1
    code: str = found[0]
    return code


def run(network: Network, agent: str, code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env={**os.environ, "PILOT_SOCKET": str(network.nodes[agent].socket)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_program_of_the_page_on_the_secure_channel(shared_network: Network) -> None:
    code = program("how-to/secure-channel.md") + _BOTH
    assert run(shared_network, "agent-b", code) == "b'hello encrypted world'\n"


@pytest.fixture
def nameserver(network: Network, tmp_path: Path) -> Iterator[Network]:
    """A network with a nameserver."""
    node = network.start("nameserver")
    server = Process("nameserver", ["--socket", str(node.socket)], tmp_path / "log")
    try:
        yield network
    finally:
        server.stop()


def test_the_program_of_the_page_on_names(nameserver: Network) -> None:
    node = nameserver.start("agent-a")
    assert run(nameserver, "agent-a", program("how-to/names.md")) == f"{node.address}\n"
