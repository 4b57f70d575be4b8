from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pilotstack.daemon import envelopes as module
from pilotstack.daemon.envelopes import MAX_SKEW, Envelope, EnvelopeVerbs
from pilotstack.daemon.identity import Identity
from pilotstack.errors import ConnectionFailed, InvalidArgument, NotFound
from pilotstack.registry.client import Record

pytestmark = pytest.mark.anyio
VECTORS = Path(__file__).parents[2] / "vectors" / "ipc-g2.json"
NOW = 1_795_382_876
HASH = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Daemon:
    address = "0:0000.0000.0001"

    def __init__(self) -> None:
        self.identity = Identity.generate()
        self.records = self
        self.error: Exception | None = None
        self.trust = SimpleNamespace(trust=SimpleNamespace(is_trusted=lambda node: node == 1))
        self.core = SimpleNamespace(snapshot=self.snapshot)
        self.found: list[int] = []

    async def profile(self, node: int) -> Record:
        if self.error:
            raise self.error
        return Record(node, self.identity.public_key, True, "", "", frozenset({5}), NOW)

    def snapshot(self) -> dict[str, Any]:
        return {"peer_list": [{"node_id": 2, "encrypted": True}]}

    def forget(self, node: int) -> None:
        self.found.append(-node)

    async def find_peer(self, node: int) -> None:
        if self.error:
            raise self.error
        self.found.append(node)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: float(NOW)))
    return Daemon()


def verbs(daemon: Daemon) -> EnvelopeVerbs:
    return EnvelopeVerbs(cast("Any", daemon))


def payload(**fields: object) -> bytes:
    return json.dumps(fields).encode()


async def test_the_captured_envelope_is_what_is_signed(daemon: Daemon) -> None:
    frames = [f for f in json.loads(VECTORS.read_text()) if "SignEnvelope" in f["cmd"]]
    asked, answered = frames[0]["json"], frames[1]["json"]
    nonce = Envelope.parse(answered["envelope"]).nonce
    got = await verbs(daemon).sign(payload(**asked, nonce=nonce))
    assert got.keys() == answered.keys()
    assert {**got, "signature": ""} == {**answered, "signature": ""}
    assert got["signature"] == base64.b64encode(
        daemon.identity.sign(answered["envelope"].encode())
    ).decode("ascii")


async def test_a_signed_envelope_verifies(daemon: Daemon) -> None:
    both = verbs(daemon)
    signed = await both.sign(payload(audience="svc", body_b64="aGVsbG8="))
    assert Envelope.parse(signed["envelope"]).body_hash == HASH
    asked = {"envelope": signed["envelope"], "signature": signed["signature"]}
    expected = {
        "type": "verify_envelope_ok",
        "valid": True,
        "node_id": 1,
        "address": daemon.address,
        "verified_via": "registry",
        "trusted": True,
    }
    assert await both.verify(payload(**asked)) == expected
    standing = await both.verify(payload(**asked, check_standing=True))
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
async def test_what_does_not_verify_is_an_answer(
    daemon: Daemon, change: dict[str, object], reason: str | None
) -> None:
    both = verbs(daemon)
    signed = await both.sign(payload(audience="svc", body_hash=HASH))
    asked = {"envelope": signed["envelope"], "signature": signed["signature"]} | change
    answer = await both.verify(payload(**asked))
    assert answer["valid"] is (reason is None)
    assert answer.get("reason") == reason


async def test_old_envelopes_and_unknown_nodes_do_not_verify(daemon: Daemon) -> None:
    both = verbs(daemon)
    text = str(
        Envelope.parse(f"pilot-req-v1|000000000001|{NOW - MAX_SKEW - 1}|{'0' * 16}|{HASH}|s")
    )
    signature = base64.b64encode(daemon.identity.sign(text.encode())).decode("ascii")
    late = await both.verify(payload(envelope=text, signature=signature))
    assert late["reason"] == "reqsig: timestamp outside of the allowed skew"
    allowed = payload(envelope=text, signature=signature, max_skew_secs=MAX_SKEW + 1)
    assert (await both.verify(allowed))["valid"]
    daemon.error = NotFound("no such node")
    assert "not registered" in (await both.verify(allowed))["reason"]
    daemon.error = ConnectionFailed("no registry")
    with pytest.raises(ConnectionFailed):
        await both.verify(allowed)


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
async def test_what_has_another_form_is_refused(daemon: Daemon, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        await verbs(daemon).sign(payload(**fields))


async def test_prefer_direct_asks_anew(daemon: Daemon) -> None:
    answer = await verbs(daemon).prefer_direct((2).to_bytes(4))
    assert daemon.found == [-2, 2]
    expected = {
        "had_tunnel": True,
        "node_id": 2,
        "pila_pushed": True,
        "resolve_error": "",
        "was_relay_active": False,
        "was_relay_pinned": False,
    }
    assert answer == expected
    daemon.error = NotFound("no such node")
    answer = await verbs(daemon).prefer_direct((9).to_bytes(4))
    assert (answer["had_tunnel"], answer["resolve_error"]) == (False, "no such node")
    with pytest.raises(InvalidArgument):
        await verbs(daemon).prefer_direct(b"\0\0")
