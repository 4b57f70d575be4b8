"""The HTTP endpoints of the registry and their access rules."""

from __future__ import annotations

import socket
from contextlib import suppress

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.registries import Raw, Registries, host_port

from pilotstack.http.server import AT_ONCE

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def url_of(registries: Registries, name: str = "primary") -> str:
    return f"http://{registries.processes[name].ready['http']}"


async def populate(registries: Registries, address: str) -> None:
    clients = [registries.client(address) for _ in range(3)]
    for client in clients:
        await client.register("127.0.0.1:4000")
        await client.set_visibility(public=True)


async def test_health_and_statistics_count_what_was_registered(registries: Registries) -> None:
    address = registries.start_primary("primary", "--http", "127.0.0.1:0")
    await populate(registries, address)
    async with httpx.AsyncClient(base_url=url_of(registries)) as http:
        health = (await http.get("/healthz")).json()
        assert health["status"] == "ok"
        assert (health["role"], health["term"], health["nodes_online"]) == ("primary", 0, 3)
        public = (await http.get("/api/public-stats")).json()
        assert (public["active_nodes"], public["total_nodes"]) == (3, 3)
        assert public["components"]["registry"] == "ok"
        stats = (await http.get("/api/stats")).json()
        assert stats["total_nodes"] == 3
        assert stats["networks"][0] == {
            "id": 0,
            "name": "backbone",
            "members": 3,
            "online_members": 3,
        }
        assert [node["address"] for node in stats["nodes"]] == [
            f"0:0000.0000.000{number}" for number in (1, 2, 3)
        ]
        assert stats["edges"] == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Real-IP": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "registry.example.com"},
    ],
)
async def test_proxied_or_foreign_host_requests_see_no_nodes(
    registries: Registries, headers: dict[str, str]
) -> None:
    address = registries.start("primary", "--http", "127.0.0.1:0")
    await populate(registries, address)
    async with httpx.AsyncClient(base_url=url_of(registries)) as http:
        stats = (await http.get("/api/stats", headers=headers)).json()
    assert stats["total_nodes"] == 3
    assert not {"nodes", "edges"} & stats.keys()


async def test_metrics_have_labels_of_known_requests_only(registries: Registries) -> None:
    address = registries.start("primary", "--http", "127.0.0.1:0")
    await populate(registries, address)
    with Raw(address) as raw:
        for number in range(300):
            raw.ask({"type": f"invented-{number}"})
        raw.ask({"type": ["no", "text"]})
    with Raw(address) as raw:
        raw.socket.sendall((1 << 21).to_bytes(4))
        assert raw.is_closed()
    async with httpx.AsyncClient(base_url=url_of(registries)) as http:
        response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["pilot_requests_total", "register"] == 3
    assert samples["pilot_requests_total", "unknown"] == 301
    assert samples["pilot_errors_total", "unknown"] == 301
    assert samples["pilot_registrations_total",] == 3
    assert samples["pilot_nodes_total",] == 3
    assert samples["pilot_dropped_connections_total", "protocol"] == 1
    assert samples["pilot_request_duration_seconds_count", "register"] == 3
    assert not any("invented" in label for name in samples for label in name)


async def test_a_standby_says_that_it_is_one(registries: Registries) -> None:
    primary = registries.start_primary("primary", "--http", "127.0.0.1:0")
    registries.start_standby(primary, "standby", "--http", "127.0.0.1:0")
    async with httpx.AsyncClient() as http:
        with anyio.fail_after(30):
            while True:
                health = (await http.get(url_of(registries, "standby") + "/healthz")).json()
                if health["replication"]["current"]:
                    break
        assert health["role"] == "standby"
        health = (await http.get(url_of(registries) + "/healthz")).json()
        assert health["replication"]["standbys"] == 1


async def test_other_paths_methods_and_bytes(registries: Registries) -> None:
    registries.start("primary", "--http", "127.0.0.1:0")
    async with httpx.AsyncClient(base_url=url_of(registries)) as http:
        assert (await http.get("/debug/pprof/")).status_code == 404
        assert (await http.post("/api/stats", content=b"x")).status_code == 405
        head = await http.head("/healthz")
        assert (head.status_code, head.content) == (200, b"")
        assert (await http.get("/healthz", headers={"X": "x" * 40_000})).status_code == 431
    where = host_port(registries.processes["primary"].ready["http"])
    for data in (b"\x16\x03\x01\x02\x00", b"GET HTTP/1.1\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n"):
        with socket.create_connection(where, timeout=30) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            while received := client.recv(1 << 14):
                answer += received
            assert answer.startswith(b"HTTP/1.1 400 "), data
    async with httpx.AsyncClient(base_url=url_of(registries)) as http:
        assert (await http.get("/healthz")).status_code == 200


async def test_silent_and_slow_connections_do_not_block_monitors(registries: Registries) -> None:
    registries.start_primary("primary", "--http", "127.0.0.1:0")
    where = host_port(registries.processes["primary"].ready["http"])
    silent = [socket.create_connection(where, timeout=30) for _ in range(AT_ONCE)]
    try:
        for opened in silent[::2]:
            opened.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        async with httpx.AsyncClient(base_url=url_of(registries)) as http:
            for _ in range(8):
                assert (await http.get("/healthz")).status_code == 200
        # The oldest gave way, and the others end by themselves.
        for opened in silent:
            with suppress(ConnectionError):
                assert opened.recv(1) == b""
    finally:
        for opened in silent:
            opened.close()


async def test_unread_responses_do_not_block_monitors(registries: Registries) -> None:
    registries.start_primary("primary", "--http", "127.0.0.1:0")
    where = host_port(registries.processes["primary"].ready["http"])
    greedy: list[socket.socket] = []
    try:
        for _ in range(AT_ONCE):
            opened = socket.socket()
            greedy.append(opened)
            # Less than a response has, and short segments, for which the system queues less.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            opened.connect(where)
            opened.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for opened in greedy:
            # The response has begun.
            assert opened.recv(1, socket.MSG_PEEK)
        async with httpx.AsyncClient(base_url=url_of(registries)) as http:
            for _ in range(8):
                assert (await http.get("/healthz")).status_code == 200
    finally:
        for opened in greedy:
            opened.close()


async def test_http_lists_no_closed_network(registries: Registries) -> None:
    address = registries.start_primary("primary", "--http", "127.0.0.1:0")
    client = registries.client(address)
    await client.register("127.0.0.1:4000")
    for rule, token in (("open", ""), ("token", "t"), ("invite", "")):
        await client.create_network(rule, join_rule=rule, token=token)
    async with httpx.AsyncClient(base_url=url_of(registries)) as http:
        far = (await http.get("/api/stats", headers={"x-forwarded-for": "203.0.113.1"})).json()
        near = (await http.get("/api/stats")).json()
    assert [sorted(row) for row in far["networks"]] == [
        ["id", "members", "name", "online_members"],
        ["id", "members", "name"],
        ["id", "name"],
    ]
    assert [row["name"] for row in near["networks"]] == ["backbone", "open", "token", "invite"]
