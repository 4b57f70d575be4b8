"""What the documents tell readers to type works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.docs import check

if TYPE_CHECKING:
    from pilotstack.testing import Network

ROOT = Path(__file__).parents[2]


def test_the_two_agents_of_the_readme_talk(shared_network: Network) -> None:
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippet is not None
    code = snippet[1]
    for side in "ab":
        socket = shared_network.nodes[f"agent-{side}"].socket
        assert f"/tmp/{side}.sock" in code
        code = code.replace(f"/tmp/{side}.sock", str(socket))
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert (result.stdout, result.returncode) == ("b'HELLO'\n", 0), result.stderr


@pytest.mark.parametrize("number", [0, 1])
def test_the_programs_of_the_page_for_programs_run(shared_network: Network, number: int) -> None:
    page = (ROOT / "docs" / "how-to" / "programs.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[number]
    environment = {**os.environ, "PILOT_SOCKET": str(shared_network.nodes["agent-a"].socket)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=environment,
    )
    assert (result.stdout, result.returncode) == ("b'HELLO'\n", 0), result.stderr


def test_every_command_explains_itself() -> None:
    listing = "from pilotstack.cli.main import pilotctl; print(*pilotctl.commands)"
    names = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    ).stdout.split()
    documents = "\n".join(page.read_text() for page in check.pages(ROOT))
    named = set(re.findall(r"pilotctl ([a-z][a-z-]+)", documents)) - {"and"}
    assert named <= set(names)
    for name in names:
        command = [sys.executable, "-c", "from pilotstack.cli.main import run; run()", name]
        helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
        assert helped.returncode == 0
        assert "Usage" in helped.stdout
