"""Signing and verifying envelopes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.verbs import ask

from pilotstack import Address
from pilotstack.daemon.identity import Identity
from pilotstack.daemon.state import NodeState
from pilotstack.daemon.verbs import envelopes as module
from pilotstack.daemon.verbs.envelopes import Envelope, EnvelopeVerbs
from pilotstack.errors import ConnectionFailed, InvalidArgument, NotFound
from pilotstack.ipc import codes
from pilotstack.ipc.requests import MAX_SKEW
from pilotstack.registry.client import Record

pytestmark = pytest.mark.anyio
VECTORS = Path(__file__).parents[2] / "vectors" / "ipc-g2.json"
NOW = 1_795_382_876
HASH = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Node:
    """A node whose registry names its own key for every node."""

    def __init__(self) -> None:
        self.state = NodeState(Identity.generate(), address=Address(0, 1))
        self.error: Exception | None = None

    async def profile(self, node: int) -> Record:
        if self.error:
            raise self.error
        return Record(node, self.state.identity.public_key, True, "", "", frozenset({5}), NOW)

    def is_trusted(self, node: int) -> bool:
        return node == 1

    async def sign(self, **fields: object) -> dict[str, Any]:
        return await self._ask(codes.SIGN_ENVELOPE, fields)

    async def verify(self, **fields: object) -> dict[str, Any]:
        return await self._ask(codes.VERIFY_ENVELOPE, fields)

    async def _ask(self, command: int, fields: dict[str, object]) -> dict[str, Any]:
        verbs = EnvelopeVerbs(self.state, self.profile, self)
        return await ask(verbs, command, json.dumps(fields).encode())


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: float(NOW)))
    return Node()


async def test_the_captured_envelope_is_what_is_signed(node: Node) -> None:
    frames = [f for f in json.loads(VECTORS.read_text()) if "SignEnvelope" in f["cmd"]]
    asked, answered = frames[0]["json"], frames[1]["json"]
    nonce = Envelope.parse(answered["envelope"]).nonce
    got = await node.sign(**asked, nonce=nonce)
    assert got.keys() == answered.keys()
    assert {**got, "signature": ""} == {**answered, "signature": ""}
    assert got["signature"] == base64.b64encode(
        node.state.identity.sign(answered["envelope"].encode())
    ).decode("ascii")


async def test_a_signed_envelope_verifies(node: Node) -> None:
    signed = await node.sign(audience="svc", body_b64="aGVsbG8=")
    assert Envelope.parse(signed["envelope"]).body_hash == HASH
    asked = {"envelope": signed["envelope"], "signature": signed["signature"]}
    expected = {
        "type": "verify_envelope_ok",
        "valid": True,
        "node_id": 1,
        "address": str(node.state.address),
        "verified_via": "registry",
        "trusted": True,
    }
    assert await node.verify(**asked) == expected
    standing = await node.verify(**asked, check_standing=True)
    assert standing == expected | {"network_member": True, "last_seen_unix": NOW}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"signature": "AAAA"}, "reqsig: signature verification failed"),
        ({"signature": "not base64!"}, "reqsig: signature verification failed"),
        ({"envelope": "pilot-req-v2|x"}, "reqsig: malformed envelope"),
        ({"max_skew_secs": -1}, None),
    ],
)
async def test_a_failed_verification_is_an_answer(
    node: Node, change: dict[str, object], reason: str | None
) -> None:
    signed = await node.sign(audience="svc", body_hash=HASH)
    asked = {"envelope": signed["envelope"], "signature": signed["signature"]} | change
    answer = await node.verify(**asked)
    assert answer["valid"] is (reason is None)
    assert answer.get("reason") == reason


async def test_old_envelopes_and_unknown_nodes_do_not_verify(node: Node) -> None:
    text = str(
        Envelope.parse(f"pilot-req-v1|000000000001|{NOW - MAX_SKEW - 1}|{'0' * 16}|{HASH}|s")
    )
    signature = base64.b64encode(node.state.identity.sign(text.encode())).decode("ascii")
    late = await node.verify(envelope=text, signature=signature)
    assert late["reason"] == "reqsig: timestamp outside of the allowed skew"
    allowed = {"envelope": text, "signature": signature, "max_skew_secs": MAX_SKEW + 1}
    assert (await node.verify(**allowed))["valid"]
    node.error = NotFound("no such node")
    assert "not registered" in (await node.verify(**allowed))["reason"]
    node.error = ConnectionFailed("no registry")
    with pytest.raises(ConnectionFailed):
        await node.verify(**allowed)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"audience": "", "body_hash": HASH},
        {"audience": "a|b", "body_hash": HASH},
        {"audience": "svc", "body_hash": "ff"},
        {"audience": "svc", "body_b64": "?"},
        {"audience": "svc", "body_hash": HASH, "nonce": "zz"},
        {"audience": 7, "body_hash": HASH},
    ],
)
async def test_malformed_envelopes_are_refused(node: Node, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        await node.sign(**fields)
