"""Request types: registry, client and documentation agree with what each type states."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.registry import CHALLENGES

from pilotstack.registry.client.refusals import error_of
from pilotstack.registry.protocol import codec, lenient
from pilotstack.registry.protocol.codec import REQUESTS
from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import Timed, digest_of, message_of, reply_of
from pilotstack.registry.protocol.requests.directory import Lookup, LookupReply
from pilotstack.registry.protocol.requests.identity import Register
from pilotstack.registry.protocol.requests.networks import CreateNetwork, SetNetworkPolicy
from pilotstack.registry.protocol.requests.trust import PollHandshakes
from pilotstack.registry.rules.dispatch import HANDLERS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "protocol" / "registry.md"
#: Requests that the state machine does not get.
ELSEWHERE = {"subscribe_replication", "announce_term"}


def test_every_request_has_a_handler_and_a_reply_of_its_name() -> None:
    assert {name for name, kind in REQUESTS.items() if kind not in HANDLERS} == ELSEWHERE
    for name, kind in REQUESTS.items():
        assert reply_of(kind).__struct_config__.tag == f"{name}_ok"


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_a_request_states_what_it_signs(name: str) -> None:
    kind = REQUESTS[name]
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    request = lenient.convert({field: number for number, field in enumerate(fields, 7)}, kind)
    if name in ELSEWHERE | {"punch"} or not request.challenge():
        return
    template = CHALLENGES.get(name, "{type}:{node_id}")
    members = msgspec.to_builtins(request)
    assert request.challenge() == template.format(**members)


def test_every_code_is_documented_and_has_a_meaning() -> None:
    page = PAGE.read_text()
    for code in Code:
        assert f"`{code}`" in page
        assert error_of("any text", code).message


def test_the_registry_reads_what_a_client_sends() -> None:
    for request in (
        Register(public_key="key", lan_addrs=("10.0.0.1:1",), relay_only=True),
        PollHandshakes(node_id=3, wait=0),
        SetNetworkPolicy(node_id=1, network_id=2, description="", signed_at=7),
    ):
        message = message_of(request)
        if isinstance(request, Timed):
            request = msgspec.structs.replace(request, digest=digest_of(message))
        assert codec.decode(msgspec.json.encode(message)) == request


def test_members_with_their_default_are_sent_only_where_clients_always_did() -> None:
    assert message_of(Lookup(node_id=1)) == {"type": "lookup", "node_id": 1}
    assert message_of(CreateNetwork(node_id=1, name="a")) == {
        "type": "create_network",
        "node_id": 1,
        "name": "a",
        "join_rule": "",
        "token": "",
    }


def test_nobody_else_sets_the_digest_of_a_request() -> None:
    for extra in ({}, {"signed_at": 5}):
        message = {"type": "create_network", "digest": "mine", **extra}
        request = codec.decode(msgspec.json.encode(message))
        assert isinstance(request, CreateNetwork)
        assert request.digest == (digest_of(message) if extra else "")


@pytest.mark.parametrize(
    ("value", "read"),
    [(7, 7), (7.0, 7), (7.9, 7), ("7", 0), (True, 0), (-1, 0), (1 << 32, 0), (1e300, 0), (None, 0)],
)
def test_numbers_are_read_as_existing_registries_do(value: object, read: int) -> None:
    request = codec.decode(msgspec.json.encode({"type": "lookup", "node_id": value}))
    assert request == Lookup(node_id=read)


def test_texts_and_lists_are_cut_at_their_limit_and_wrong_types_count_as_absent() -> None:
    message = {
        "type": "register",
        "public_key": ["x"],
        "owner": "o" * 300,
        "lan_addrs": ["a", 7, *["b"] * 20],
        "relay_only": "true",
    }
    request = codec.decode(msgspec.json.encode(message))
    assert isinstance(request, Register)
    assert (request.public_key, request.relay_only) == ("", False)
    assert request.owner == "o" * 256
    assert request.lan_addrs == ("a", *["b"] * 15)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 1 << 40), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)


@given(
    st.sampled_from(sorted(REQUESTS)),
    st.lists(VALUES, min_size=20, max_size=20),
)
def test_both_decoders_read_the_same(name: str, given_values: list[object]) -> None:
    fields = msgspec.structs.fields(REQUESTS[name])
    message: dict[str, object] = {
        field.encode_name: value for field, value in zip(fields, given_values, strict=False)
    }
    message["type"] = name
    assert codec.decode(msgspec.json.encode(message)) == codec.from_message(message)


def test_malformed_members_of_a_reply_count_as_absent() -> None:
    reply = lenient.convert(
        {"node_id": 3, "networks": [1, "x", -1, 1 << 16], "tags": None}, LookupReply
    )
    assert (reply.node_id, reply.networks, reply.tags, reply.public_key) == (3, (1,), (), "")
