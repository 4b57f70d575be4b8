"""Control verbs: what drivers send is what the daemon reads, and answers keep their JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pilotstack import Address
from pilotstack.errors import InternalError, InvalidArgument, PilotError, Unavailable
from pilotstack.ipc import answers, codes, layout, verbs
from pilotstack.ipc import network_answers as networks
from pilotstack.ipc import network_requests as n
from pilotstack.ipc import requests as r

VECTORS = Path(__file__).parents[2] / "vectors"
#: Requests and answers of our own daemon.
OWN: list[dict[str, str]] = json.loads((VECTORS / "ipc-control.json").read_text())
#: A session of the existing command with an existing daemon.
EXISTING: list[dict[str, Any]] = json.loads((VECTORS / "ipc-g2.json").read_text())
#: What existing commands print.
PRINTED: list[dict[str, Any]] = json.loads((VECTORS / "cli-json.json").read_text())
CONTROL = {command for command, _ in verbs.table()}


@pytest.mark.parametrize("case", OWN, ids=lambda case: case["verb"])
def test_requests_and_answers_keep_their_bytes(case: dict[str, str]) -> None:
    body = bytes.fromhex(case["request"])
    request = verbs.parse(body[0], body[1:])
    assert verbs.parse(body[0], request.pack()) == request
    if not isinstance(request, layout.JsonRequest):
        assert request.pack() == body[1:]
    answer = request.decode(case["reply"].encode())
    assert layout.encode(answer).decode() == case["reply"]


def test_every_verb_has_a_sample() -> None:
    sampled = set()
    for case in OWN:
        body = bytes.fromhex(case["request"])
        sampled.add(type(verbs.parse(body[0], body[1:])))
    assert set(verbs.table().values()) <= sampled
    assert set(n.Management.__args__) <= sampled


def reply_to(position: int) -> str:
    """The text of the error that an existing daemon answered with."""
    client = EXISTING[position]["client"]
    later = EXISTING[position + 1 :]
    reply = next(row for row in later if (row["client"], row["dir"]) == (client, "d>c"))
    body = bytes.fromhex(reply["hex"])[codes.LENGTH_LEN :]
    assert body[0] == codes.ERROR
    return body[3:].decode()


def test_requests_of_existing_commands_are_accepted_or_refused_alike() -> None:
    for position, row in enumerate(EXISTING):
        body = bytes.fromhex(row["hex"])[codes.LENGTH_LEN :]
        if row["dir"] != "c>d" or body[0] not in CONTROL:
            continue
        try:
            request = verbs.parse(body[0], body[1:])
        except PilotError as error:
            # What is wrong with JSON is told in the parser's own words.
            ours, theirs = (text.partition("JSON:")[0] for text in (str(error), reply_to(position)))
            assert ours == theirs
        else:
            assert request.command == body[0]


def kind_of(row: dict[str, Any]) -> type[Any] | None:
    """The answer that an existing daemon's reply is."""
    members = row["json"]
    kinds = {
        "InfoOK": answers.Info,
        "HealthOK": answers.Health,
        "ResolveHostnameOK": answers.Resolved,
        "SetHostnameOK": answers.HostnameSet,
        "SetVisibilityOK": answers.VisibilitySet,
        "SetTagsOK": answers.TagsSet,
        "PreferDirectOK": answers.DirectPreferred,
        "SignEnvelopeOK": answers.EnvelopeSigned,
        "NetworkOK": networks.Networks,
        "ManagedOK": networks.ManagedPolicy,
    }
    if (name := row["cmd"].partition(" ")[2]) != "HandshakeOK":
        return kinds.get(name)
    for member, kind in (
        ("pending", answers.PendingHandshakes),
        ("status", answers.HandshakeStatus),
    ):
        if member in members:
            return kind
    return answers.TrustedPeers if isinstance(members["trusted"], list) else answers.TrustAwaited


#: What existing daemons tell and ours do not.
FOREIGN = {"motd", "webhook_circuit_skips", "webhook_queue_dropped"}


def includes(ours: Any, theirs: Any) -> bool:
    """Whether everything that they tell is in what we read."""
    if isinstance(theirs, dict):
        return all(
            includes(ours.get(name, _ABSENT), value)
            for name, value in theirs.items()
            if name not in FOREIGN
        )
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(includes, ours, theirs))
    return bool(ours == theirs)


_ABSENT = object()


def test_answers_of_existing_daemons_are_read_whole() -> None:
    read = 0
    for row in EXISTING:
        kind = kind_of(row) if row["dir"] == "d>c" and "json" in row else None
        if kind is None:
            continue
        reply = bytes.fromhex(row["hex"])[codes.LENGTH_LEN + 1 :]
        assert json.loads(reply) == row["json"]
        assert includes(layout.members(layout.decode(reply, kind)), row["json"]), row["cmd"]
        read += 1
    assert read == 38


#: Members that existing commands print, and the answer that they come from.
PRINTED_BY: dict[str, tuple[type[Any] | None, str | None]] = {
    "info": (answers.Info, None),
    "health": (answers.Health, None),
    "find": (answers.Resolved, None),
    "peers": (answers.PeerInfo, "peers"),
    "connections": (answers.ConnectionInfo, "connections"),
    "pending": (answers.PendingHandshake, "pending"),
    "trust": (answers.TrustedPeer, "trusted"),
    "handshake": (answers.HandshakeStatus, None),
    "approve": (answers.HandshakeStatus, None),
    "set-public": (answers.VisibilitySet, None),
    "set-private": (answers.VisibilitySet, None),
    "prefer-direct": (answers.DirectPreferred, None),
    "sign-request": (answers.EnvelopeSigned, None),
    "verify-request": (answers.EnvelopeVerified, None),
    "deregister": (answers.Deregistered, None),
}


def test_what_existing_commands_print_is_in_the_answers() -> None:
    read: set[str] = set()
    for row in PRINTED:
        words = [word for word in row["argv"] if not word.startswith("--")]
        if row["rc"] or len(words) < 2 or not isinstance(row["stdout"], dict):
            continue
        kind, member = PRINTED_BY.get(words[1], (None, None))
        if kind is None:
            continue
        data = row["stdout"]["data"]
        for item in (data[member] or ()) if member else (data,):
            answer: Any = layout.decode(json.dumps(item).encode(), kind)
            assert includes(layout.members(answer), item), row["argv"]
            read.add(words[1])
    assert read == set(PRINTED_BY)


@pytest.mark.parametrize(
    ("command", "payload", "error", "text"),
    [
        (0x7F, b"", Unavailable, "unknown command: 0x7F"),
        (codes.NETWORK, b"\x99", Unavailable, "network: unknown sub-command 0x99"),
        (codes.NETWORK, b"\x05\x00\x01", InvalidArgument, "network: missing node_id"),
        (codes.HANDSHAKE, b"\x01\x00", InvalidArgument, "handshake request: missing node_id"),
        (codes.HANDSHAKE, b"\x07\0\0\0\1", InvalidArgument, "handshake wait: missing timeout"),
        (codes.NETWORK, b"\x02\x00\x01\xff", InvalidArgument, "network: not UTF-8"),
        (codes.BROADCAST, b"\0\1\0\1\0\5abc", InvalidArgument, "broadcast: truncated token"),
        (codes.NETWORK, b'\x80{"verb":"x"}', InvalidArgument, "network: invalid JSON"),
        (codes.SET_TAGS, b"[" * 5000, InvalidArgument, "set_tags: invalid JSON"),
        (codes.SET_TAGS, b"[1]", InvalidArgument, "set_tags: invalid JSON"),
    ],
)
def test_malformed_requests_are_refused(
    command: int, payload: bytes, error: type[PilotError], text: str
) -> None:
    with pytest.raises(error, match=f"^{text}"):
        verbs.parse(command, payload)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (n.JoinNetwork(70_000), "no such network: 70000"),
        (n.JoinNetwork(True), "no such network: True"),
        (n.JoinNetwork(1, 5), "no token: 5"),  # type: ignore[arg-type]
        (n.JoinNetwork(1, "x" * 65_536), "the token has 65536 bytes; at most 65535 fit"),
        (r.RequestTrust(0), "no such node: 0"),
        (r.RejectTrust(1, "x" * 1025), "the text has 1025 bytes"),
        (r.ResolveHostname(""), "the hostname is empty"),
        (r.ResolveHostname("\ud800"), "the hostname is not text"),
        (r.SetVisibility(1), "public is True or False, not 1"),  # type: ignore[arg-type]
        (r.SetTags("abc"), "tags are a list of strings, not one string"),  # type: ignore[arg-type]
        (n.Broadcast(1, 1000, "", b""), "a datagram has 1 to 65435 bytes, not 0"),
        (n.Broadcast(1, 1000, "", "x"), "a datagram has bytes, not str"),  # type: ignore[arg-type]
        (n.CreateNetwork("\ud800"), "an argument has no JSON form"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(request_: layout.Request[Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{text}"):
        request_.pack()


def test_untrusted_texts_are_decoded_leniently() -> None:
    request = verbs.parse(codes.HANDSHAKE, b"\x01\0\0\0\1\xff")
    assert request == r.RequestTrust(1, "\ufffd")


@pytest.mark.parametrize("reply", [b"", b"[]", b"{}", b'{"node_id":1,"address":"x"}', b"[" * 5000])
def test_malformed_answers_raise_internal_errors(reply: bytes) -> None:
    with pytest.raises(InternalError, match="malformed answer"):
        r.ResolveHostname("x").decode(reply)


def test_members_are_left_out_while_they_have_their_default() -> None:
    found = answers.Resolved(node_id=1, address=Address(0, 1))
    assert layout.encode(found) == (
        b'{"node_id":1,"address":"0:0000.0000.0001","public":false,"type":"resolve_hostname_ok"}'
    )
    row = networks.NetworkInfo(id=1, name="a", join_rule="open")
    assert layout.encode(row) == b'{"id":1,"name":"a","join_rule":"open","enterprise":false}'
