"""Requests and replies of the nameserver, with those of existing implementations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.services import vectors

from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PilotError,
    Unavailable,
)
from pilotstack.services.nameserver import codec
from pilotstack.services.nameserver.codec import (
    List,
    Query,
    QueryServices,
    Refused,
    Register,
    Reply,
    Request,
    Unregister,
)
from pilotstack.services.nameserver.records import (
    NameRecord,
    NetworkRecord,
    Record,
    ServiceRecord,
    is_name,
    normal,
)
from pilotstack.types import Address

VECTORS = vectors.of("nameserver")
#: Existing servers have no such command.
OURS = {"UNREGISTER A agent-alpha"}


def described(request: Request) -> dict[str, Any]:
    """A request as the vectors have it."""
    shown = {"address": "", "command": "QUERY", "name": "", "net_id": 0, "port": 0}
    match request:
        case Query(kind, name):
            return shown | {"record": kind, "name": name}
        case QueryServices(network, port):
            return shown | {"record": "S", "net_id": network, "port": port}
        case Register(NameRecord(name, address)):
            shown |= {"record": "A", "name": name, "address": str(address)}
        case Register(NetworkRecord(name, network)):
            shown |= {"record": "N", "name": name, "net_id": network}
        case Register(ServiceRecord(name, address, network, port)):
            shown |= {"record": "S", "name": name, "address": str(address)}
            shown |= {"net_id": network, "port": port}
    return shown | {"command": "REGISTER"}


@pytest.mark.parametrize("vector", VECTORS["requests"], ids=lambda vector: repr(vector["line"]))
def test_requests_are_read_as_others_do(vector: dict[str, Any]) -> None:
    line = vector["line"]
    if line in OURS:
        assert codec.parse_request(line) == Unregister("A", "agent-alpha")
    elif "g2_parsed" in vector:
        request = codec.parse_request(line)
        assert described(request) == vector["g2_parsed"]
        assert line.split() == codec.request_line(request).split() or line.islower()
    else:
        with pytest.raises(Refused) as refused:
            codec.parse_request(line)
        assert f"ERR {refused.value}" == vector["g2_reply"]


def test_replies_are_written_as_others_do() -> None:
    known = VECTORS["responses"]
    alpha = NameRecord("agent-alpha", Address(0, 7))
    assert codec.record_line(alpha) == known["A"]
    assert codec.record_line(NetworkRecord("research-lab", 42)) == known["N"]
    two = [ServiceRecord(n, Address(1, node), 1, 8080) for n, node in (("api", 7), ("api2", 9))]
    assert codec.services_reply(two) == known["S_two"]
    assert codec.services_reply([]) == known["S_none"]
    for request, name in (
        ("REGISTER A x 0:0001.0000.0007", "ERR_addr_mismatch"),
        ("REGISTER A x banana", "ERR_addr_syntax"),
    ):
        with pytest.raises(Refused) as refused:
            codec.parse_request(request)
        assert f"ERR {refused.value}" == known[name]


@pytest.mark.parametrize("vector", VECTORS["client_parse"], ids=lambda vector: vector["text"])
def test_replies_are_read_in_both_dialects(vector: dict[str, Any]) -> None:
    text = vector["text"]
    if text == "OK 0:0000.0000.0007":
        # Existing clients know one dialect only.
        assert codec.parse_reply(text) == Reply("A", address=Address(0, 7))
    elif "g1_parse_error" in vector:
        with pytest.raises(ConnectionFailed):
            codec.parse_reply(text)
    elif error := vector["g1_parsed"]["error"]:
        with pytest.raises(NotFound, match=error):
            codec.parse_reply(text)
    else:
        reply, parsed = codec.parse_reply(text), vector["g1_parsed"]
        assert (reply.kind, reply.name) == (parsed["type"], parsed["name"])
        assert str(reply.address or "") == parsed["address"]
        assert (reply.network or 0) == parsed["net_id"]
        assert [
            {"name": name, "address": str(address), "port": port}
            for name, address, port in reply.services
        ] == parsed["services"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('ERR name "x" not found', NotFound),
        ('ERR name "x" is taken', AlreadyExists),
        ("ERR cannot register address for another node", PermissionDenied),
        ('ERR name "x" is not yours', PermissionDenied),
        ("ERR unknown command: UNREGISTER", Unavailable),
        ("ERR too few fields", Unavailable),
        ("ERR the registry does not answer: try again later", ConnectionFailed),
        ("ERR", InvalidArgument),
        ("ERR something else", InvalidArgument),
        ("\n \n", ConnectionFailed),
        ("A x banana", ConnectionFailed),
        ("N x 65536", ConnectionFailed),
        ("OK 65536", ConnectionFailed),
        ("S a b c d e", ConnectionFailed),
        ("HTTP/1.0 400 Bad Request", ConnectionFailed),
    ],
)
def test_refusals_are_errors_of_a_type(text: str, error: type[PilotError]) -> None:
    with pytest.raises(error) as refused:
        codec.parse_reply(text)
    assert type(refused.value) is error


def test_the_short_dialect_has_networks_as_well() -> None:
    assert codec.parse_reply("OK 42") == Reply("N", network=42)


def test_what_strangers_send_is_shown_as_one_line() -> None:
    with pytest.raises(Refused) as refused:
        codec.parse_request("QUERY \x1b[31m\u202e x")
    assert str(refused.value) == "unknown record type: \\x1b[31M\\u202e"


@given(st.text(max_size=300))
def test_any_text_is_a_request_or_refused(text: str) -> None:
    refusal = ""
    try:
        request = codec.parse_request(text)
    except Refused as refused:
        refusal = str(refused)
    else:
        again = codec.request_line(request)
        assert codec.parse_request(again) == request
    assert refusal.isprintable()
    assert len(refusal) < 1000


@given(st.text(max_size=300))
def test_any_text_is_a_reply_or_an_error(text: str) -> None:
    for parse in (codec.parse_reply, codec.parse_records):
        message = ""
        try:
            parse(text)
        except PilotError as error:
            message = error.message
        assert message.isprintable()


addresses = st.builds(Address, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF))
u16 = st.integers(0, 0xFFFF)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,10}[a-z]", fullmatch=True)
records = st.one_of(
    st.builds(NameRecord, names, addresses),
    st.builds(NetworkRecord, names, u16),
    st.builds(ServiceRecord, names, addresses, u16, u16),
)


@given(st.lists(records, max_size=5))
def test_lists_are_read_as_they_were_written(found: list[Record]) -> None:
    text = "\n".join(map(codec.record_line, found)) or "OK"
    assert list(codec.parse_records(text)) == found


@given(
    st.one_of(
        st.builds(Register, records),
        st.builds(Query, st.sampled_from("AN"), names),
        st.builds(QueryServices, u16, u16),
        st.builds(Unregister, st.sampled_from("AN"), names),
        st.builds(Unregister, st.just("S"), names, u16, u16),
        st.just(List()),
    )
)
def test_requests_are_read_as_they_were_written(request: Request) -> None:
    assert codec.parse_request(codec.request_line(request)) == request


def test_names_are_compared_without_case() -> None:
    assert normal("Agent-Alpha.") == "agent-alpha"
    for name in ("a", "agent-b", "a_b", "_http._tcp.x", "x" * 63, "1a", "a.b.c"):
        assert is_name(name)
    for name in ("", "-a", "a-", "a..b", ".a", "x" * 64, "12", "a b", "A", "ä", "a:1", "a/b"):
        assert not is_name(name)
    assert not is_name(".".join(["x" * 63] * 4))
