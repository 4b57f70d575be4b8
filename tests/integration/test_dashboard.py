"""The page to look at, in a browser: of a daemon and of a registry, empty, small and large."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from tests.support.browser import MISSING, Browser, axe

from pilotstack import sync
from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.registries import Registries

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.timeout(300),
]
ADMIN = "operator-secret"
#: Nodes of a large network, and how many register at once.
MANY = 1000
AT_ONCE = 32


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as running:
        yield running


@pytest.fixture(scope="module")
def audit() -> str:
    found = axe(ROOT / "build" / "npm")
    if isinstance(found, str):
        pytest.skip(found)
    return found.read_text()


def draw(browser: Browser, directory: Path, name: str) -> None:
    """Screenshots, kept in the directory of PILOT_SCREENSHOTS."""
    kept = os.environ.get("PILOT_SCREENSHOTS")
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.screenshot(Path(kept or directory) / f"dashboard-{name}-{scheme}.png")


def check_accessible(browser: Browser, script: str) -> None:
    """Runs axe in both schemes of colours; the page must have no violation."""
    browser.evaluate(script + "; undefined")
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        text = browser.evaluate(
            "axe.run(document, {resultTypes: ['violations']})"
            ".then((found) => JSON.stringify(found.violations.map("
            "(each) => [each.id, each.nodes.map((node) => node.html.slice(0, 200))])))"
        )
        assert json.loads(text) == [], scheme


def rows(browser: Browser, name: str) -> int:
    return int(browser.evaluate(f"document.querySelectorAll('[data-list={name}] tbody tr').length"))


SHOWN = "document.getElementById('status').textContent === 'Working'"


def test_a_daemon_that_has_done_nothing(browser: Browser, tmp_path: Path, audit: str) -> None:
    with Network() as network:
        node = network.start("agent-a", "--http", "127.0.0.1:0", "--no-echo")
        link = Path(node.process.ready["dashboard"])
        assert link.stat().st_mode & 0o777 == 0o600
        browser.open(link.read_text().strip())
        browser.until(SHOWN)
        assert browser.evaluate("document.title") == "agent-a · Pilot"
        assert "token" not in browser.evaluate("location.href")
        assert "No stream is open." in browser.evaluate("document.body.innerText")
        draw(browser, tmp_path, "daemon-empty")
        check_accessible(browser, audit)
        assert browser.errors == []
        node.process.stop()
        assert not link.exists()


def test_a_daemon_with_streams_draws_them(browser: Browser, tmp_path: Path, audit: str) -> None:
    with Network() as network:
        node = network.start("agent-a", "--http", "127.0.0.1:0")
        network.start("agent-b")
        with sync.Driver(node.socket) as driver:
            streams = [driver.dial("agent-b:7") for _ in range(3)]
            browser.open(Path(node.process.ready["dashboard"]).read_text().strip())
            browser.until(f"{SHOWN} && document.querySelectorAll('tbody tr').length >= 4")
            # Something moves between every two states, until a plot has risen.
            points = "document.querySelector('#throughput-plot polyline').getAttribute('points')"
            risen = f"{points}.split(' ').length > 5"
            for _ in range(200):
                for stream in streams:
                    stream.sendall(bytes(50_000))
                    received = 0
                    while received < 50_000:
                        received += len(stream.recv(65_536))
                if browser.evaluate(risen):
                    break
                browser.evaluate("new Promise((done) => setTimeout(done, 200))")
            assert browser.evaluate(risen)
            text = browser.evaluate("document.querySelector('#throughput-plot p').innerText")
            assert re.search(r"Now [\d.]+ [kM]B/s sent", text), text
            assert rows(browser, "streams") == 3
            assert rows(browser, "peers") == 1
            shown = browser.evaluate("document.querySelector('[data-list=peers]').innerText")
            assert "lan" in shown
            assert browser.evaluate("document.querySelectorAll('.spark').length") == 9
            draw(browser, tmp_path, "daemon-streams")
            browser.resize(400, 800)
            draw(browser, tmp_path, "daemon-narrow")
            is_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not browser.evaluate(is_wide)
            check_accessible(browser, audit)
            assert browser.errors == []
            for stream in streams:
                stream.close()


def test_the_daemon_shows_nothing_without_its_token(browser: Browser, tmp_path: Path) -> None:
    with Network() as network:
        node = network.start("agent-a", "--http", "127.0.0.1:0")
        url, _, token = Path(node.process.ready["dashboard"]).read_text().strip().partition("#")
        browser.open(url)
        browser.until("document.getElementById('status').textContent === 'Not signed in'")
        draw(browser, tmp_path, "daemon-locked")
        assert "agent-a" not in browser.evaluate("document.documentElement.outerHTML")
        with httpx.Client(base_url=url) as http:
            assert http.get("/api/state").status_code == 401
            assert http.get("/api/events").status_code == 401
            bearer = {"authorization": f"Bearer {token.removeprefix('token=')}"}
            assert http.get("/api/state", headers=bearer).json()["name"] == "agent-a"
            for path in ("/", "/metrics", "/healthz", "/api/state"):
                # A site whose name was pointed at this host.
                rebound = {**bearer, "host": "attacker.example"}
                assert http.get(path, headers=rebound).status_code == 421, path
            policy = http.get("/").headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self';")
        # By keyboard alone: the token is typed into the form.
        typed = "const field = document.getElementById('token'); field.focus(); field.value = "
        browser.evaluate(f"{{ {typed}'{token.removeprefix('token=')}' }}")
        browser.press("Tab")
        browser.press("Enter")
        browser.until(SHOWN)


def test_a_daemon_on_all_addresses_serves_no_dashboard() -> None:
    with Network() as network:
        node = network.start("agent-a", "--http", "0.0.0.0:0")
        assert "dashboard" not in node.process.ready
        port = node.process.ready["http"].rpartition(":")[2]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            assert http.get("/").status_code == 404
            assert http.get("/api/state").status_code == 404
            assert http.get("/readyz").status_code == 200


@pytest.mark.anyio
async def test_a_registry_shows_strangers_only_what_they_could_ask(
    registries: Registries, browser: Browser, tmp_path: Path, audit: str
) -> None:
    flags = ("--http", "127.0.0.1:0", "--admin-token", ADMIN)
    address = registries.start("primary", *flags)
    url = f"http://{registries.processes['primary'].ready['http']}/"
    browser.open(url)
    browser.until(SHOWN)
    draw(browser, tmp_path, "registry-empty")
    names = ["alpha", "beta", "gamma", "delta"]
    clients = [registries.client(address) for _ in names]
    for client, name in zip(clients, names, strict=True):
        await client.register("127.0.0.1:4000", hostname=name)
    for own, other in ((0, 1), (1, 0), (1, 2), (2, 1)):
        await clients[own].report_trust(clients[other].node_id)
    await clients[0].create_network("lab", join_rule="open", admin_token=ADMIN)
    await clients[0].create_network("hidden", join_rule="invite", admin_token=ADMIN)
    async with httpx.AsyncClient(base_url=url) as http:
        with anyio.fail_after(60):
            while len((state := (await http.get("/api/state")).json())["networks"]) < 2:
                await anyio.lowlevel.checkpoint()
        assert [row["name"] for row in state["networks"]] == ["backbone", "lab"]
        assert not {"nodes", "trust", "events"} & state.keys()
        assert "alpha" not in json.dumps(state)
        assert state.get("is_operator") is None
        bearer = {"authorization": f"Bearer {ADMIN}"}
        wrong = {"authorization": "Bearer guess"}
        assert "nodes" not in (await http.get("/api/state", headers=wrong)).json()
        full = (await http.get("/api/state", headers=bearer)).json()
        assert sorted(row["hostname"] for row in full["nodes"]) == sorted(names)
        assert len(full["trust"]) == 2
    browser.open(f"{url}#token={ADMIN}")
    browser.until(f"{SHOWN} && document.querySelectorAll('#trust-graph circle').length === 3")
    assert rows(browser, "nodes") == 4
    assert rows(browser, "networks") == 3
    draw(browser, tmp_path, "registry-small")
    check_accessible(browser, audit)
    assert browser.errors == []


@pytest.mark.anyio
async def test_a_network_of_a_thousand_nodes(
    registries: Registries, browser: Browser, tmp_path: Path, audit: str
) -> None:
    address = registries.start("primary", "--http", "127.0.0.1:0", "--admin-token", ADMIN)
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def join(number: int) -> None:
        async with limiter:
            client = registries.client(address)
            await client.register("127.0.0.1:4000", hostname=f"agent-{number}")
            # Every tenth is trusted by those after it, and each of them by it.
            await client.report_trust(1 + number % 10)
            await client.aclose()

    hubs = [registries.client(address) for _ in range(10)]
    for number, hub in enumerate(hubs):
        await hub.register("127.0.0.1:4000", hostname=f"hub-{number}")
    async with anyio.create_task_group() as tasks:
        for number in range(MANY - len(hubs)):
            tasks.start_soon(join, number)
    for hub in hubs:
        for node in range(11, MANY + 1, 3):
            await hub.report_trust(node)
    browser.open(f"http://{registries.processes['primary'].ready['http']}/#token={ADMIN}")
    browser.until(f"{SHOWN} && document.querySelectorAll('#trust-graph circle').length > 300")
    assert "50 of 1000 are shown" in browser.evaluate("document.body.innerText")
    browser.evaluate("document.querySelector('[data-list=nodes] .scroll + button').click()")
    assert rows(browser, "nodes") == 250
    search = "Object.assign(document.getElementById('nodes-search'), {value: 'agent-77'})"
    browser.evaluate(f"{search}.dispatchEvent(new Event('input'))")
    assert rows(browser, "nodes") == 11
    browser.evaluate("document.querySelector('[data-list=nodes] thead button').click()")
    assert (
        browser.evaluate("document.querySelector('[data-list=nodes] th[aria-sort]').ariaSort")
        == "descending"
    )
    draw(browser, tmp_path, "registry-thousand")
    check_accessible(browser, audit)
    assert browser.errors == []
