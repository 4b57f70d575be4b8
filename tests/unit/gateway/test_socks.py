"""SOCKS as bytes (RFC 1928)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.errors import ConnectionFailed, ConnectionRefused, NotFound, TimedOut
from pilotstack.gateway import socks
from pilotstack.gateway.socks import Connect, Greeting, Malformed, Reply


def test_what_curl_sends_is_understood() -> None:
    assert socks.parse_greeting(b"\5\2\0\1") == (Greeting(b"\0\1"), 4)
    request = b"\5\1\0\3\7agent-b\0P"
    assert socks.parse_request(request) == (Connect("agent-b", 80), len(request))
    assert socks.parse_request(request + b"GET /") == (Connect("agent-b", 80), len(request))
    ipv4 = b"\5\1\0\1\x0a\4\0\1\x1f\x90"
    assert socks.parse_request(ipv4) == (Connect("10.4.0.1", 8080), len(ipv4))
    ipv6 = b"\5\1\0\4" + bytes(15) + b"\1\0\7"
    assert socks.parse_request(ipv6) == (Connect("::1", 7), len(ipv6))


@pytest.mark.parametrize("whole", [b"\5\1\0\3\7agent-b\0P", b"\5\1\0\1\x0a\4\0\1\x1f\x90"])
def test_a_part_of_a_request_is_no_failure(whole: bytes) -> None:
    assert [socks.parse_request(whole[:end]) for end in range(len(whole))] == [None] * len(whole)


def test_only_clients_that_need_no_authentication_are_served() -> None:
    assert Greeting(b"\0").answer == b"\5\0"
    assert Greeting(b"\1\2").answer == b"\5\xff"
    assert not Greeting(b"\1\2").is_acceptable


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"\4\1\0\1\x0a\4\0\1\0P", Reply.FAILURE),
        (b"\5\2\0\1\x0a\4\0\1\0P", Reply.COMMAND_NOT_SUPPORTED),
        (b"\5\3\0\1\x0a\4\0\1\0P", Reply.COMMAND_NOT_SUPPORTED),
        (b"\5\1\1\1\x0a\4\0\1\0P", Reply.FAILURE),
        (b"\5\1\0\2\x0a\4\0\1\0P", Reply.ADDRESS_NOT_SUPPORTED),
        (b"\5\1\0\3\0\0P", Reply.NOT_ALLOWED),
        (b"\5\1\0\3\1a\0\0", Reply.NOT_ALLOWED),
        (b"\5\1\0\3\1\xff\0P", Reply.NOT_ALLOWED),
    ],
)
def test_what_is_not_offered_is_answered(request_: bytes, code: Reply) -> None:
    with pytest.raises(Malformed) as raised:
        socks.parse_request(request_)
    assert raised.value.answer == bytes((5, code, 0, 1, 0, 0, 0, 0, 0, 0))


@given(st.binary(max_size=600))
def test_no_bytes_fail_otherwise(data: bytes) -> None:
    for parse in (socks.parse_greeting, socks.parse_request):
        for start in (data, b"\5" + data, b"\5\1\0\3" + data):
            try:
                found = parse(start)
            except Malformed:
                continue
            if found is None:
                assert len(start) < socks.MAX_MESSAGE
            else:
                assert found[1] <= len(start)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefused("x"), Reply.REFUSED),
        (TimedOut("x"), Reply.TTL_EXPIRED),
        (NotFound("x"), Reply.HOST_UNREACHABLE),
        (ConnectionFailed("x"), Reply.FAILURE),
    ],
)
def test_clients_learn_why(error: Exception, code: Reply) -> None:
    assert socks.reply_to(error)[1] == code  # type: ignore[arg-type]
