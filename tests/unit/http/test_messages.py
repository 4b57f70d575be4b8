"""Who is asking: local names, proxies, tokens."""

from __future__ import annotations

import pytest

from pilotstack.http.messages import Request, event


def request(headers: dict[str, str], *, is_from_here: bool = True) -> Request:
    return Request("GET", "/", headers=headers, is_from_here=is_from_here)


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("LocalHost:9100", True),
        ("127.0.0.1:9100", True),
        ("[::1]:9100", True),
        ("[::1]", True),
        ("", True),
        ("attacker.example", False),
        ("attacker.example:9100", False),
        ("127.0.0.1.attacker.example", False),
        ("localhost.attacker.example:9100", False),
        ("0.0.0.0:9100", False),
        ("127.0.0.1:9100:1", False),
    ],
)
def test_names_of_this_host(host: str, is_ours: bool) -> None:
    assert request({"host": host}).has_local_name is is_ours
    assert request({"host": host}).is_local is is_ours
    assert not request({"host": host}, is_from_here=False).is_local


@pytest.mark.parametrize("header", ["forwarded", "via", "x-forwarded-for", "x-real-ip"])
def test_what_a_proxy_forwarded_is_not_from_here(header: str) -> None:
    assert not request({"host": "localhost", header: "127.0.0.1"}).is_local


@pytest.mark.parametrize(
    ("given", "is_right"),
    [
        ("Bearer secret", True),
        ("bearer  secret ", True),
        ("Bearer secre", False),
        ("Bearer secret2", False),
        ("Bearer", False),
        ("Basic secret", False),
        ("secret", False),
        ("Bearer s\xe9cret", False),
        ("", False),
    ],
)
def test_tokens(given: str, is_right: bool) -> None:
    asked = request({"authorization": given} if given else {})
    assert asked.shows("secret") is is_right
    assert not asked.shows("")


def test_arguments_are_the_first_of_their_name() -> None:
    asked = Request("GET", "/", "a=1&a=2&b=%2F")
    assert (asked.argument("a"), asked.argument("b"), asked.argument("c")) == ("1", "/", "")


def test_an_event_is_one_block() -> None:
    assert event("state", b"{}") == b"event: state\ndata: {}\n\n"
