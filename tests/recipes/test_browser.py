"""A browser loads an agent's site through the gateway, and through its proxy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.gateways import running
from tests.support.site import SiteProcess

from pilotstack.testing import Network
from pilotstack.testing.internet import Host, Namespaces, missing_requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gateways import Gateway

MISSING = missing_requirement("chromium")
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"a browser in a namespace needs {MISSING}"),
    pytest.mark.timeout(300),
]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway on a host of its own, whose agent has a site."""
    with Network() as network, Namespaces("pilotweb") as namespaces:
        for name in ("agent-a", "agent-b"):
            network.start(name)
        flags = ("--proxy", "127.0.0.1:1080")
        host: Host = namespaces.add("browser")
        with (
            SiteProcess(network.nodes["agent-b"]),
            running(network, "agent-a", "agent-b", flags=flags, host=host) as found,
        ):
            yield found


class Browser:
    """Chromium without a window, with a profile of its own.

    Args:
        gateway: on whose host it runs.
        profile: its directory.
        flags: more flags.
    """

    def __init__(self, gateway: Gateway, profile: Path, *flags: str) -> None:
        self._command = gateway.command(
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"),
            *("--window-size=800,400", f"--user-data-dir={profile}", *flags),
        )

    def _run(self, *flags: str) -> bytes:
        result = subprocess.run(
            [*self._command, *flags], capture_output=True, check=False, timeout=120
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def page(self, url: str) -> str:
        """The page as the browser has it."""
        return self._run("--dump-dom", url).decode()

    def screenshot(self, url: str, path: Path) -> None:
        """Draws the page."""
        self._run(f"--screenshot={path}", url)


@pytest.mark.parametrize("way", ["local-ip", "socks", "http-proxy"])
def test_a_browser_shows_the_site_of_an_agent(gateway: Gateway, tmp_path: Path, way: str) -> None:
    kept = os.environ.get("PILOT_SCREENSHOTS")
    directory = Path(kept) if kept else tmp_path
    url, flags = {
        "local-ip": ("http://10.4.0.1/", ()),
        "socks": ("http://agent-b/", (f"--proxy-server=socks5://{gateway.proxy}",)),
        "http-proxy": ("http://agent-b.pilot/", (f"--proxy-server=http://{gateway.proxy}",)),
    }[way]
    browser = Browser(gateway, tmp_path / "profile", *flags)
    page = browser.page(url)
    assert "<title>Pilot Protocol</title>" in page
    assert "<h1>Hello from Pilot Protocol</h1>" in page
    picture = directory / f"{way}.png"
    browser.screenshot(url, picture)
    assert picture.read_bytes().startswith(PNG)
