"""What the README tells readers to type about the gateway works, on a host of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from examples.site import PAGE
from tests.support.site import SiteProcess

from pilotstack.testing.internet import Namespaces, missing_requirement

if TYPE_CHECKING:
    from pilotstack.testing import Network

ROOT = Path(__file__).parents[2]
MISSING = missing_requirement("curl")
STATUS = '{"status":"ok","protocol":"pilot","port":80}'


@pytest.mark.skipif(bool(MISSING), reason=f"local IPs need {MISSING}")
def test_curl_reaches_an_agent_as_the_readme_says(network: Network) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [text for text in blocks if "gateway start" in text]
    serving, _, rest = block.partition("\n")
    assert serving == "PILOT_SOCKET=/tmp/b.sock python examples/site.py &"
    a, b = network.start("agent-a"), network.start("agent-b")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PILOT_HOME": str(network.path),
    }
    with SiteProcess(b), Namespaces("pilotread") as namespaces:
        host = namespaces.add("reader")
        shell = host.command("bash", "-ec", rest.replace("/tmp/a.sock", str(a.socket)))
        result = subprocess.run(
            shell, capture_output=True, text=True, check=False, timeout=100, env=environment
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(STATUS) == 2
    assert PAGE in result.stdout
    assert result.stdout.count('"status": "ok"') == 2
