"""Keys, frames and proofs of the secure channel, with what existing implementations wrote."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.services import vectors

from pilotstack.services.secure import auth
from pilotstack.services.secure.auth import Credentials, NonceCache, Proof
from pilotstack.services.secure.codec import (
    MAX_FRAME,
    MAX_FRAMES,
    Channel,
    Role,
    SecureError,
    Suite,
    agree,
    derive,
)

VECTORS = vectors.of("secure_channel")
SHARED = bytes.fromhex(VECTORS["shared_secret_hex"])
TEXTS = [bytes.fromhex(text) for text in VECTORS["plaintexts_hex"]]
AUTH = VECTORS["g2_auth"]


async def no_key(node: int) -> bytes | None:
    raise AssertionError(node)


def reason_of(channel: Channel, data: bytes) -> str:
    channel.feed(data)
    with pytest.raises(SecureError) as refused:
        exhaust(channel)
    return refused.value.reason


def exhaust(channel: Channel) -> None:
    while channel.open() is not None:
        pass


def frames(role: Role, suite: Suite) -> list[bytes]:
    sender = "server" if role is Role.SERVER else "client"
    return [bytes.fromhex(frame) for frame in VECTORS[suite.value][f"{sender}_frames_hex"]]


def test_both_ends_agree_on_the_secret() -> None:
    for own, other in (("client", "server"), ("server", "client")):
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS[f"{own}_private_hex"]))
        assert private.public_key().public_bytes_raw().hex() == VECTORS[f"{own}_public_hex"]
        assert agree(private, bytes.fromhex(VECTORS[f"{other}_public_hex"])) == SHARED


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), bytes(31), b""])
def test_keys_of_a_small_order_or_another_size_are_refused(public: bytes) -> None:
    with pytest.raises(SecureError) as refused:
        agree(X25519PrivateKey.generate(), public)
    assert refused.value.reason == "handshake"


@pytest.mark.parametrize("suite", Suite)
def test_keys_are_derived_as_others_do(suite: Suite) -> None:
    assert derive(suite, SHARED).hex() == VECTORS[suite.value]["aes256_key_hex"]


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("role", Role)
def test_frames_are_those_of_others(role: Role, suite: Suite) -> None:
    ours = Channel(role, SHARED, suite)
    assert [ours.seal(text) for text in TEXTS] == frames(role, suite)
    theirs = Channel(role.peer, SHARED, suite)
    theirs.feed(b"".join(frames(role, suite)))
    assert [theirs.open() for _ in TEXTS] == TEXTS
    assert theirs.open() is None
    assert not theirs.has_part


@pytest.mark.parametrize("suite", Suite)
def test_the_first_frame_tells_how_the_peer_derives_its_key(suite: Suite) -> None:
    channel = Channel(Role.SERVER, SHARED)
    assert [channel.suite] == [None]
    channel.feed(frames(Role.CLIENT, suite)[0])
    assert channel.open() == TEXTS[0]
    assert channel.suite is suite
    assert channel.seal(TEXTS[0]) == frames(Role.SERVER, suite)[0]


def test_who_sends_first_has_decided() -> None:
    channel = Channel(Role.CLIENT, SHARED)
    assert channel.seal(TEXTS[0]) == frames(Role.CLIENT, Suite.G1)[0]
    assert reason_of(channel, frames(Role.SERVER, Suite.G2)[0]) == "unauthentic"


def test_frames_out_of_their_order_are_refused() -> None:
    first, second, third = frames(Role.CLIENT, Suite.G1)
    for sent in ((first, first), (second,), (first, third), (first, second, first)):
        assert reason_of(Channel(Role.SERVER, SHARED), b"".join(sent)) == "replayed"
    # Reflected: what the server sent comes back to it.
    own = frames(Role.SERVER, Suite.G1)[0]
    assert reason_of(Channel(Role.SERVER, SHARED), own) == "replayed"


def test_a_frame_of_another_channel_does_not_open() -> None:
    for suite in Suite:
        channel = Channel(Role.SERVER, bytes(32))
        assert reason_of(channel, frames(Role.CLIENT, suite)[0]) == "unauthentic"


def test_lengths_are_checked_before_the_frame_arrives() -> None:
    for length, reason in (
        (MAX_FRAME + 1, "oversized"),
        (0xFFFF_FFFF, "oversized"),
        (27, "unauthentic"),
        (0, "unauthentic"),
    ):
        assert reason_of(Channel(Role.CLIENT, SHARED), length.to_bytes(4)) == reason
    # The largest one is waited for.
    channel = Channel(Role.CLIENT, SHARED)
    channel.feed(MAX_FRAME.to_bytes(4) + bytes(100))
    assert channel.open() is None
    assert channel.has_part


def test_a_key_is_not_used_for_ever() -> None:
    channel = Channel(Role.CLIENT, SHARED)
    channel._sent = MAX_FRAMES
    with pytest.raises(SecureError) as refused:
        channel.seal(b"x")
    assert refused.value.reason == "exhausted"


@given(
    texts=st.lists(st.binary(max_size=200), max_size=8),
    cuts=st.lists(st.integers(1, 60), min_size=1),
    suite=st.sampled_from(Suite),
)
def test_texts_arrive_however_the_stream_is_cut(
    texts: list[bytes], cuts: list[int], suite: Suite
) -> None:
    sender, receiver = Channel(Role.CLIENT, SHARED, suite), Channel(Role.SERVER, SHARED)
    wire = b"".join(sender.seal(text) for text in texts)
    found, begin, turn = [], 0, 0
    while begin < len(wire):
        size = cuts[turn % len(cuts)]
        receiver.feed(wire[begin : begin + size])
        begin, turn = begin + size, turn + 1
        while (text := receiver.open()) is not None:
            found.append(text)
    assert found == texts


@given(data=st.binary(min_size=1, max_size=300), begin=st.integers(0, 80), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed(data: bytes, begin: int, bit: int) -> None:
    frame = bytearray(Channel(Role.CLIENT, SHARED, Suite.G2).seal(data))
    frame[begin % len(frame)] ^= 1 << bit
    receiver = Channel(Role.SERVER, SHARED)
    receiver.feed(bytes(frame) + bytes(1 << 10))
    with suppress(SecureError):
        # A longer length waits for more.
        assert receiver.open() is None


# Proofs


def test_a_proof_is_that_of_others() -> None:
    credentials = Credentials(AUTH["node_id"], bytes.fromhex(AUTH["ed25519_seed_hex"]), no_key)
    public = bytes.fromhex(AUTH["signer_x25519_public_hex"])
    nonce = bytes.fromhex(AUTH["nonce_hex"])
    proof = credentials.prove(public, now=AUTH["timestamp"], nonce=nonce)
    assert proof.encode().hex() == AUTH["auth_frame_hex"]
    assert proof.signature.hex() == AUTH["signature_hex"]
    message = auth.challenge(proof.node_id, public, proof.time, proof.nonce)
    assert message.hex() == AUTH["signed_message_hex"]
    assert Proof.decode(proof.encode()) == proof
    assert AUTH["ed25519_seed_hex"] not in repr(credentials)


def test_a_proof_is_checked() -> None:
    proof = Proof.decode(bytes.fromhex(AUTH["auth_frame_hex"]))
    public = bytes.fromhex(AUTH["signer_x25519_public_hex"])
    key = bytes.fromhex(AUTH["ed25519_public_hex"])
    now = AUTH["timestamp"]
    for good in (now - 5, now, now + 5, now + 5.9):
        auth.check(proof, public, key, now=good)
    forged = Proof(8, proof.time, proof.nonce, proof.signature)
    later = Proof(proof.node_id, proof.time + 1, proof.nonce, proof.signature)
    unsigned = Proof(proof.node_id, proof.time, proof.nonce, bytes(64))
    for bad, at, known, signer in (
        (proof, public, key, now + 6),
        (proof, public, key, now - 6),
        (proof, bytes(32), key, now),
        (proof, public, bytes(32), now),
        (proof, public, None, now),
        (forged, public, key, now),
        (later, public, key, now),
        (unsigned, public, key, now),
    ):
        with pytest.raises(SecureError) as refused:
            auth.check(bad, at, known, now=signer)
        assert refused.value.reason == "handshake"


@given(st.binary(max_size=200).filter(lambda text: len(text) != auth.PROOF_LEN))
def test_what_is_no_proof_is_refused(text: bytes) -> None:
    with pytest.raises(SecureError):
        Proof.decode(text)


def test_a_proof_counts_once() -> None:
    cache = NonceCache(limit=2)
    assert cache.add(b"a", 0.0)
    assert not cache.add(b"a", 1.0)
    assert cache.add(b"b", 1.0)
    # Full: nothing that is remembered may be forgotten in favour of it.
    assert not cache.add(b"c", 2.0)
    assert cache.add(b"c", auth.REMEMBERED)
    assert not cache.add(b"b", auth.REMEMBERED)
