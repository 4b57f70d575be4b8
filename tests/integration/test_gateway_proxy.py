"""The proxy of the gateway: curl, httpx, and clients that mean harm."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.support.gateways import Gateway, running
from tests.support.site import SiteProcess

from pilotstack.testing import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS = '{"status":"ok","protocol":"pilot","port":80}'


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Network() as network:
        for name in ("agent-a", "agent-b"):
            network.start(name)
        flags = ("--unprivileged", "--proxy", "127.0.0.1:0", "--limit", "64")
        with (
            SiteProcess(network.nodes["agent-b"]),
            running(network, "agent-a", "agent-b", flags=flags) as gateway,
        ):
            yield gateway


def connect(gateway: Gateway) -> socket.socket:
    host, _, port = gateway.proxy.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    try:
        while chunk := connection.recv(1 << 16):
            data += chunk
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize(
    "way", [("--socks5-hostname",), ("-x",), ("-p", "-x")], ids=["socks", "http", "connect"]
)
def test_curl_asks_for_names_of_the_overlay(gateway: Gateway, way: tuple[str, ...]) -> None:
    for name in ("agent-b", "agent-b.pilot", gateway.rows[0]["local_ip"]):
        assert gateway.curl(*way, gateway.proxy, f"http://{name}/status") == STATUS
    # Two on one connection of curl's.
    shown = gateway.curl(*way, gateway.proxy, "http://agent-b/status", "http://agent-b/chunks")
    assert shown == f"{STATUS}one, two, three"
    assert gateway.curl(*way, gateway.proxy, "http://agent-b/until-the-end") == "as long as it is"
    body = os.urandom(1 << 18)
    arguments = ("curl", "-sS", *way, gateway.proxy, "--data-binary", "@-", "http://agent-b/echo")
    assert gateway.run(*arguments, stdin=body) == body
    chunked = (*arguments, "-H", "Transfer-Encoding: chunked", "-H", "Expect:")
    assert gateway.run(*chunked, stdin=body) == body


def test_httpx_uses_it_as_any_proxy(gateway: Gateway) -> None:
    with httpx.Client(proxy=f"http://{gateway.proxy}", trust_env=False) as client:
        for _ in range(3):
            assert client.get("http://agent-b/status").json()["status"] == "ok"
        assert client.post("http://agent-b/echo", content=b"x" * 100_000).content == b"x" * 100_000
        failed = client.get("http://agent-b:81/")
        assert (failed.status_code, failed.headers["x-pilot-error"]) == (502, "connection_failed")
        assert "refused" in failed.text
        assert client.get("http://example.com/").status_code == 502
        assert client.head("http://agent-b/status").status_code == 501


def test_headers_of_the_connection_stay_here(gateway: Gateway) -> None:
    shown = gateway.curl(
        *("-x", gateway.proxy, "-H", "Proxy-Authorization: Basic c2VjcmV0", "-H", "X-Mine: yes"),
        *("-H", "Connection: X-Hidden", "-H", "X-Hidden: 1", "http://agent-b/headers"),
    ).lower()
    assert "x-mine: yes" in shown
    assert "via: 1.1 pilot-gateway" in shown
    assert "host: agent-b" in shown
    assert not re.search("secret|hidden|proxy", shown)


@pytest.mark.parametrize(("path", "status"), [("nonsense", 502), ("silence", 502), ("cut", 200)])
def test_agents_that_break_the_rules_end_one_answer(
    gateway: Gateway, path: str, status: int
) -> None:
    with connect(gateway) as connection:
        connection.sendall(f"GET http://agent-b/{path} HTTP/1.1\r\nHost: agent-b\r\n\r\n".encode())
        answer = read_all(connection)
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert gateway.curl("-x", gateway.proxy, "http://agent-b/status") == STATUS


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\4\1\0P\x0a\4\0\1user\0", b"HTTP/1.1 400"),
        (b"\5\1\2", b"\5\xff"),
        (b"\5\0", b"\5\xff"),
        (b"\5\1\0\5\2\0\1\x0a\4\0\1\0P", b"\5\0\5\7"),
        (b"\5\1\0\5\1\0\3\0\0P", b"\5\0\5\2"),
        (b"\5\1\0\5\1\0\1\x7f\0\0\1\0P", b"\5\0\5\4"),
        (b"\5\1\0\5\1\0\3\x0bexample.com\0P", b"\5\0\5\4"),
        (b"\5\1\0\5\1\0\3\7agent-b\0Q", b"\5\0\5\5"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT agent-b HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT agent-b:99999 HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 502"),
        (b"GET http://agent-b/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET http://agent-b/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"HTTP/1.1 400"),
        (
            b"POST http://agent-b/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
            b"Content-Length: 2\r\n\r\n",
            b"HTTP/1.1 400",
        ),
        (b"\0" * 300, b"HTTP/1.1 400"),
        (b"A" * 70_000, b"HTTP/1.1 400"),
        (b"GET http://agent-b/ HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, b"HTTP/1.1 400"),
    ],
)
def test_hostile_clients_get_an_answer_and_an_end(
    gateway: Gateway, sent: bytes, answer: bytes
) -> None:
    with connect(gateway) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        assert read_all(connection).startswith(answer)


def test_random_bytes_end_nothing_but_their_connection(gateway: Gateway) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    starts = (b"", b"\5", b"\5\1\0\5\1\0\3", b"CONNECT ", b"GET http://agent-b/ HTTP/1.1\r\n")
    for _ in range(100):
        with connect(gateway) as connection:
            try:
                connection.sendall(chance.choice(starts) + chance.randbytes(chance.randrange(400)))
                connection.shutdown(socket.SHUT_WR)
            except ConnectionError:
                continue
            read_all(connection)
    assert gateway.curl("-x", gateway.proxy, "http://agent-b/status") == STATUS
    log = gateway.log.read_text()
    assert "Traceback" not in log


def test_clients_that_say_nothing_are_bounded(gateway: Gateway) -> None:
    before = gateway.descriptors()
    # As many as connections may be.
    silent = [connect(gateway) for _ in range(64)]
    try:
        with connect(gateway) as refused:
            refused.settimeout(30)
            assert read_all(refused) == b""
        dropped = gateway.ctl("list")["data"]["refused"]
        assert dropped["limit"] >= 1
    finally:
        for connection in silent:
            connection.close()
    gateway.settle(before)
    assert gateway.curl("--socks5-hostname", gateway.proxy, "http://agent-b/status") == STATUS


def test_a_client_that_never_ends_its_request_is_timed_out(gateway: Gateway) -> None:
    with connect(gateway) as greeting, connect(gateway) as head, connect(gateway) as body:
        greeting.sendall(b"\5\1\0")
        assert greeting.recv(2) == b"\5\0"
        head.sendall(b"GET http://agent-b/ HTTP/1.1\r\n")
        body.sendall(b"CONNECT agent-b:80 HTTP/1.1\r\nHost: agent-b\r\nContent-Length: 5\r\n\r\n")
        for silent in (greeting, head, body):
            assert read_all(silent) == b""
    assert gateway.ctl("list")["data"]["refused"]["timeout"] >= 3
