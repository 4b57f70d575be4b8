"""What programs call an agent, and what is passed on of their requests."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.errors import InvalidArgument, NotFound, PilotError, TimedOut
from pilotstack.gateway.config import GatewayConfig, local_port, parse_ports
from pilotstack.gateway.http_proxy import BadRequest, passed_on, refusal, split_url
from pilotstack.gateway.mapping import Mapping
from pilotstack.gateway.targets import target_of
from pilotstack.types import Address

AGENT = Address(0, 7)


@pytest.fixture
def mapping() -> Mapping:
    mapping = Mapping()
    mapping.map(AGENT)
    return mapping


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("agent-b", "agent-b"),
        ("Agent-B", "agent-b"),
        ("agent-b.", "agent-b"),
        ("agent-b.pilot", "agent-b"),
        ("agent-b.pilot.", "agent-b"),
        ("db.lab.pilot", "db.lab"),
        ("10.4.0.1", AGENT),
        ("0:0000.0000.0007", AGENT),
        ("7", AGENT),
    ],
)
def test_names_and_ips_mean_agents(mapping: Mapping, host: str, meant: Address | str) -> None:
    assert target_of(host, 80, mapping) == (meant, 80)


@pytest.mark.parametrize("host", ["google.com", "10.4.0.2", "127.0.0.1", "::1", "[::]"])
def test_the_rest_of_the_internet_is_not_asked_for(mapping: Mapping, host: str) -> None:
    with pytest.raises(NotFound):
        target_of(host, 80, mapping)


@pytest.mark.parametrize("host", ["", ".", "\n", "ä", "x" * 256, "a:b", "\0"])
def test_what_is_no_name_is_refused(mapping: Mapping, host: str) -> None:
    with pytest.raises(InvalidArgument):
        target_of(host, 80, mapping)


@given(st.text(max_size=300))
def test_no_host_fails_otherwise(host: str) -> None:
    with contextlib.suppress(PilotError):
        target_of(host, 80, Mapping())


def test_urls_are_split() -> None:
    assert split_url(b"http://agent-b") == ("agent-b", 80, b"/")
    assert split_url(b"http://agent-b:8080/a/b?c=d#e") == ("agent-b", 8080, b"/a/b?c=d")
    assert split_url(b"HTTP://user@[fd00::1]:1/") == ("fd00::1", 1, b"/")
    for bad in (
        b"/status",
        b"https://agent-b/",
        b"http://",
        b"http://a:b/",
        b"http://a:99999/",
        b"*",
    ):
        with pytest.raises(BadRequest):
            split_url(bad)


@given(st.binary(max_size=100))
def test_no_url_fails_otherwise(target: bytes) -> None:
    for url in (target, b"http://" + target):
        with contextlib.suppress(BadRequest):
            split_url(url)


def test_headers_of_one_connection_are_not_passed_on() -> None:
    headers = [
        (b"Host", b"agent-b"),
        (b"Connection", b"keep-alive, X-Secret, Content-Length"),
        (b"X-Secret", b"1"),
        (b"Proxy-Connection", b"close"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"Upgrade", b"h2c"),
        (b"Content-Length", b"5"),
        (b"Accept", b"*/*"),
    ]
    assert passed_on(headers) == [(b"content-length", b"5"), (b"accept", b"*/*")]


def test_a_length_beside_chunks_is_not_passed_on() -> None:
    chunked = (b"transfer-encoding", b"chunked")
    assert passed_on([(b"Content-Length", b"4"), chunked]) == [chunked]


def test_refusals_are_answers_of_http() -> None:
    text = refusal(TimedOut("no <answer>", hint="wait")).decode()
    head, _, body = text.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 504 Gateway Timeout\r\n")
    assert "X-Pilot-Error: timeout" in head
    assert body == "no &lt;answer&gt;\nhint: wait\n"
    assert f"Content-Length: {len(body)}" in head


def test_ports_of_a_gateway() -> None:
    assert parse_ports("80, 443,80") == (80, 443)
    for bad in ("", "0", "65536", "x", "80,", "1" * 99, ",".join(map(str, range(1, 99)))):
        with pytest.raises(InvalidArgument):
            parse_ports(bad)
    assert [local_port(port, 1024) for port in (7, 80, 1023, 1024, 8080)] == [
        *(20_007, 20_080, 21_023),
        *(1024, 8080),
    ]
    assert local_port(80, None) == 80
    assert GatewayConfig().network == "10.4.0.0/16"
    assert GatewayConfig(is_unprivileged=True).network == "127.64.0.0/16"
