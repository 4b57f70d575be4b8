"""The DNS bridge: names of agents for resolvers, and what resolvers and others may send."""

from __future__ import annotations

import ipaddress
import shutil
import socket
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.dig import Answer, dig

from pilotstack.errors import AlreadyExists, ConnectionFailed, NotFound, Unavailable
from pilotstack.services import dns_bridge
from pilotstack.services.dns_bridge.reverse import Reverse
from pilotstack.services.dns_bridge.server import DnsServer
from pilotstack.services.dns_bridge.zone import MAX_MESSAGE, Bridge
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

pytestmark = pytest.mark.anyio

AGENTS = {
    "agent-b": Address(0, 2),
    "six": Address(0, 6),
    "unmapped": Address(0, 9),
    "many": Address(0, 7),
    "x.y": Address(0, 2),
    "was-renamed": Address(0, 2),
}
IPS = {
    Address(0, 2): ipaddress.ip_address("10.4.0.1"),
    Address(0, 6): ipaddress.ip_address("fd00:4::1"),
    Address(0, 7): ipaddress.ip_address("10.4.0.2"),
    Address(0, 8): ipaddress.ip_address("10.4.1.0"),
    Address(0, 10): ipaddress.ip_address("10.4.0.10"),
    Address(0, 11): ipaddress.ip_address("10.4.0.11"),
}
PORTS = {
    Address(0, 2): {80: 8080, 443: 443},
    Address(0, 7): {port: port for port in range(1000, 1200)},
}


NAMES = {
    Address(0, 2): "agent-b",
    Address(0, 7): "was-renamed",
    Address(0, 8): "",
    Address(0, 10): "broken",
    Address(0, 11): "gone",
}


class Gateway:
    def __init__(self, subnet: str = "10.4.0.0/16") -> None:
        self.subnet = ipaddress.ip_network(subnet)

    async def local_ip(self, address: Address, name: str) -> Any:
        return IPS.get(address)

    def agent_at(self, ip: Any) -> Any:
        found = (address for address, known in IPS.items() if known == ip)
        return next(((each, NAMES.get(each, "")) for each in found), None)

    def local_ports(self, address: Address) -> Mapping[int, int]:
        return PORTS.get(address, {})


async def resolve(name: str) -> Address:
    if name == "broken":
        raise ConnectionFailed("no registry answers")
    if name not in AGENTS:
        raise NotFound(f"hostname {name!r} not found")
    return AGENTS[name]


def bridge() -> Bridge:
    return Bridge(resolve, Gateway())


async def ask(name: str, kind: str = "A", **options: Any) -> dns.message.Message:
    is_datagram = options.pop("is_datagram", False)
    query = dns.message.make_query(name, kind, **options)
    answer = await bridge().respond(query.to_wire(), is_datagram=is_datagram)
    assert answer is not None
    response = dns.message.from_wire(answer)
    assert query.is_response(response) or response.rcode() == dns.rcode.FORMERR
    return response


def texts(response: dns.message.Message) -> list[str]:
    return sorted(str(row) for rrset in response.answer for row in rrset)


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "expected"),
    [
        ("agent-b.pilot", "A", "NOERROR", ["10.4.0.1"]),
        ("AGENT-b.Pilot", "A", "NOERROR", ["10.4.0.1"]),
        ("x.y.pilot", "A", "NOERROR", ["10.4.0.1"]),
        ("six.pilot", "AAAA", "NOERROR", ["fd00:4::1"]),
        ("agent-b.pilot", "TXT", "NOERROR", ['"address=0:0000.0000.0002" "node=2"']),
        (
            "agent-b.pilot",
            "SRV",
            "NOERROR",
            ["0 0 443 agent-b.pilot.", "0 0 8080 agent-b.pilot."],
        ),
        ("_http._tcp.agent-b.pilot", "SRV", "NOERROR", ["0 0 8080 agent-b.pilot."]),
        ("_443._tcp.agent-b.pilot", "SRV", "NOERROR", ["0 0 443 agent-b.pilot."]),
        ("agent-b.pilot", "ANY", "NOERROR", ['"RFC8482" ""']),
        ("pilot", "NS", "NOERROR", ["pilot."]),
        # NODATA: the name is there.
        ("agent-b.pilot", "AAAA", "NOERROR", []),
        ("agent-b.pilot", "MX", "NOERROR", []),
        ("six.pilot", "A", "NOERROR", []),
        ("unmapped.pilot", "A", "NOERROR", []),
        ("_http._tcp.agent-b.pilot", "A", "NOERROR", []),
        ("_tcp.agent-b.pilot", "SRV", "NOERROR", []),
        ("pilot", "A", "NOERROR", []),
        # NXDOMAIN: it is not.
        ("nobody.pilot", "A", "NXDOMAIN", []),
        ("nobody.pilot", "SRV", "NXDOMAIN", []),
        ("a.agent-b.pilot", "A", "NXDOMAIN", []),
        ("_http._tcp.nobody.pilot", "SRV", "NXDOMAIN", []),
        ("_echo._tcp.agent-b.pilot", "SRV", "NXDOMAIN", []),
        ("_http._udp.agent-b.pilot", "SRV", "NXDOMAIN", []),
        ("12.pilot", "A", "NXDOMAIN", []),
        (r"a\.b.pilot", "A", "NXDOMAIN", []),
        (r"\000\255.pilot", "A", "NXDOMAIN", []),
        # Others' names.
        ("example.com", "A", "REFUSED", []),
        (".", "NS", "REFUSED", []),
        ("xpilot", "A", "REFUSED", []),
        ("pilot", "AXFR", "REFUSED", []),
        ("broken.pilot", "A", "SERVFAIL", []),
        # Names of IPs.
        ("1.0.4.10.in-addr.arpa", "PTR", "NOERROR", ["agent-b.pilot."]),
        ("1.0.4.10.IN-ADDR.arpa", "ANY", "NOERROR", ['"RFC8482" ""']),
        ("4.10.in-addr.arpa", "NS", "NOERROR", ["pilot."]),
        ("1.0.4.10.in-addr.arpa", "A", "NOERROR", []),
        ("4.10.in-addr.arpa", "PTR", "NOERROR", []),
        ("0.4.10.in-addr.arpa", "PTR", "NOERROR", []),
        # Another node has the name now, there is none, nobody has it any more.
        ("2.0.4.10.in-addr.arpa", "PTR", "NOERROR", []),
        ("0.1.4.10.in-addr.arpa", "PTR", "NOERROR", []),
        ("11.0.4.10.in-addr.arpa", "PTR", "NOERROR", []),
        ("10.0.4.10.in-addr.arpa", "PTR", "SERVFAIL", []),
        ("9.0.4.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("01.0.4.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("256.0.4.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("x.4.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("1.1.0.4.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("1.0.5.10.in-addr.arpa", "PTR", "REFUSED", []),
        ("10.in-addr.arpa", "PTR", "REFUSED", []),
    ],
)
async def test_queries(name: str, kind: str, rcode: str, expected: list[str]) -> None:
    response = await ask(name, kind)
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert texts(response) == expected
    has_answer = bool(expected)
    is_negative = rcode in {"NOERROR", "NXDOMAIN"} and not has_answer
    assert [rrset.rdtype for rrset in response.authority] == (
        [dns.rdatatype.SOA] if is_negative else []
    )
    assert ("AA" in dns.flags.to_text(response.flags)) == (rcode != "REFUSED")
    if has_answer:
        assert str(response.answer[0].name) == str(response.question[0].name)


@pytest.mark.parametrize(
    ("subnet", "zone", "inside", "outside"),
    [
        ("10.4.0.0/16", "4.10.in-addr.arpa.", "10.4.255.1", "10.5.0.1"),
        ("127.9.32.0/20", "9.127.in-addr.arpa.", "127.9.47.255", "127.9.48.0"),
        ("10.0.0.0/7", "in-addr.arpa.", "11.0.0.1", "12.0.0.1"),
        ("10.4.0.7/32", "7.0.4.10.in-addr.arpa.", "10.4.0.7", "10.4.0.8"),
        ("fd00:4::/32", f"{'.'.join('400000df')}.ip6.arpa.", "fd00:4:1::2", "fd00:5::1"),
        ("fc00::/7", "f.ip6.arpa.", "fd00::1", "ff00::1"),
    ],
)
def test_zones_of_subnets(subnet: str, zone: str, inside: str, outside: str) -> None:
    reverse = Reverse(ipaddress.ip_network(subnet))
    assert str(reverse.zone) == zone
    name = dns.reversename.from_address(inside)
    assert reverse.has(name)
    assert reverse.ip_of(name) == ipaddress.ip_address(inside)
    assert not reverse.has(dns.reversename.from_address(outside))


async def test_other_questions_are_refused() -> None:
    chaos = await ask("version.bind", "TXT", rdclass=dns.rdataclass.CH)
    assert chaos.rcode() == dns.rcode.REFUSED
    query = dns.message.make_query("agent-b.pilot", "A")
    query.set_opcode(dns.opcode.Opcode.UPDATE)
    answer = await bridge().respond(query.to_wire(), is_datagram=True)
    assert answer is not None
    assert answer[3] & 15 == dns.rcode.NOTIMP
    two = dns.message.make_query("agent-b.pilot", "A")
    two.question.append(dns.message.make_query("six.pilot", "A").question[0])
    answer = await bridge().respond(two.to_wire(), is_datagram=True)
    assert answer is not None
    assert answer[3] & 15 == dns.rcode.FORMERR
    future = await ask("agent-b.pilot", "A", use_edns=1)
    assert future.rcode() == dns.rcode.BADVERS


async def test_long_answers_are_cut_off_for_datagrams() -> None:
    for payload, limit in ((None, 512), (1232, 1232), (65_535, 1232), (100, 512)):
        options: dict[str, Any] = {} if payload is None else {"use_edns": 0, "payload": payload}
        query = dns.message.make_query("many.pilot", "SRV", **options)
        answer = await bridge().respond(query.to_wire(), is_datagram=True)
        assert answer is not None
        assert len(answer) <= limit
        assert "TC" in dns.flags.to_text(dns.message.from_wire(answer).flags)
    whole = await ask("many.pilot", "SRV")
    assert len(texts(whole)) == 200
    assert "TC" not in dns.flags.to_text(whole.flags)


async def test_responses_are_not_answered() -> None:
    server = bridge()
    response = await ask("agent-b.pilot")
    assert await server.respond(response.to_wire(), is_datagram=True) is None
    assert await server.respond(b"", is_datagram=True) is None
    assert await server.respond(bytes(11), is_datagram=True) is None
    assert server.dropped["dns_not_a_query"] == 3


#: Headers of queries before a body that was not made by a resolver.
HEADERS = [
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00",
    b"\x12\x34\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01",
]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        # A pointer to itself, forwards, and behind the end; a label longer than what is there.
        b"\xc0\x0c\x00\x01\x00\x01",
        b"\xc0\xff\x00\x01\x00\x01",
        b"\x3f" + b"a" * 10,
        b"\x40a\x00\x00\x01\x00\x01",
        b"\x80a\x00\x00\x01\x00\x01",
        b"\x01a" * 200 + b"\x00\x00\x01\x00\x01",
        b"\x07agent-b\x05pilot\x00\x00\x01\x00\x01" + b"trailing",
        b"\x00" * 60_000,
    ],
)
async def test_hostile_messages_are_answered_or_dropped(body: bytes) -> None:
    server = bridge()
    for header in HEADERS:
        for is_datagram in (False, True):
            answer = await server.respond(header + body, is_datagram=is_datagram)
            assert answer is None or answer[:2] == b"\x12\x34"
            assert answer is None or answer[2] & 0x80


@given(data=st.binary(max_size=300), header=st.sampled_from([b"", *HEADERS]))
def test_any_message_is_answered_or_dropped(data: bytes, header: bytes) -> None:
    async def attempt() -> bytes | None:
        return await bridge().respond(header + data, is_datagram=True)

    answer = anyio.run(attempt)
    assert answer is None or 12 <= len(answer) <= 1232


def test_without_the_library_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable) as refused:
        dns_bridge.check_available()
    assert refused.value.hint == "pip install 'pilotstack[dns]'"


# Sockets


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with (
        DnsServer(bridge(), "127.0.0.1", 0) as running,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(running.serve)
        yield running
        tasks.cancel_scope.cancel()


async def digging(server: DnsServer, *arguments: str) -> Answer:
    return await anyio.to_thread.run_sync(lambda: dig(server.address[1], *arguments))


@pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig")
async def test_dig_understands_the_answers(server: DnsServer) -> None:
    for way in ("+notcp", "+tcp"):
        found = await digging(server, way, "agent-b.pilot", "A")
        assert (found.status, found.answers) == (
            "NOERROR",
            (("agent-b.pilot.", "A", "10.4.0.1"),),
        )
        assert found.flags == {"qr", "aa"}
        services = await digging(server, way, "_http._tcp.agent-b.pilot", "SRV")
        assert [row[2] for row in services.answers] == ["0 0 8080 agent-b.pilot."]
        text = await digging(server, way, "agent-b.pilot", "TXT")
        assert [row[2] for row in text.answers] == ['"address=0:0000.0000.0002" "node=2"']
        nodata = await digging(server, way, "agent-b.pilot", "AAAA")
        assert (nodata.status, nodata.answers, nodata.authority) == ("NOERROR", (), ("SOA",))
        nobody = await digging(server, way, "nobody.pilot", "A")
        assert (nobody.status, nobody.authority) == ("NXDOMAIN", ("SOA",))
        other = await digging(server, way, "example.com", "A")
        assert other.status == "REFUSED"
    # What does not fit into a datagram comes over TCP.
    many = await digging(server, "many.pilot", "SRV")
    assert len(many.answers) == 200
    cut = await digging(server, "+ignore", "many.pilot", "SRV")
    assert cut.flags == {"qr", "aa", "tc"}


async def test_a_connection_may_ask_often_and_in_pieces(server: DnsServer) -> None:
    query = dns.message.make_query("agent-b.pilot", "A").to_wire()
    framed = len(query).to_bytes(2) + query
    async with await anyio.connect_tcp(*server.address) as stream:
        for part in (framed + framed[:5], framed[5:20], framed[20:] + framed):
            await stream.send(part)
        received = b""
        for _ in range(3):
            while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2]):
                received += await stream.receive()
            end = 2 + int.from_bytes(received[:2])
            assert texts(dns.message.from_wire(received[2:end])) == ["10.4.0.1"]
            received = received[end:]


async def test_garbage_ends_one_connection_only(server: DnsServer) -> None:
    for garbage in (b"\x00\x00", b"\x00\x03abc", b"\xff\xff" + b"x" * MAX_MESSAGE):
        async with await anyio.connect_tcp(*server.address) as stream:
            await stream.send(garbage)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await read_on(stream)
    async with await anyio.create_connected_udp_socket(*server.address) as udp:
        for garbage in (b"", b"x", bytes(600)):
            await udp.send(garbage)
        await udp.send(dns.message.make_query("agent-b.pilot", "A").to_wire())
        with anyio.fail_after(20):
            while not (response := dns.message.from_wire(await udp.receive())).answer:
                assert response.rcode() == dns.rcode.FORMERR
        assert texts(response) == ["10.4.0.1"]


async def read_on(stream: anyio.abc.SocketStream) -> None:
    while True:
        await stream.receive()


async def test_a_taken_port_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(AlreadyExists):
            async with DnsServer(bridge(), "127.0.0.1", other.getsockname()[1]):
                pass
