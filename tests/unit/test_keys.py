"""Ed25519 of the core agrees with RFC 8032 and with another implementation."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pilotstack import _core

#: RFC 8032, section 7.1, test 3.
SEED = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
PUBLIC_KEY = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
MESSAGE = bytes.fromhex("af82")
SIGNATURE = bytes.fromhex(
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
)


def test_the_vector_of_the_rfc() -> None:
    assert _core.ed25519_public_key(SEED) == PUBLIC_KEY
    assert _core.ed25519_sign(SEED, MESSAGE) == SIGNATURE
    assert _core.ed25519_verify(PUBLIC_KEY, MESSAGE, SIGNATURE)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_keys_and_signatures_are_those_of_another_implementation(
    seed: bytes, message: bytes
) -> None:
    other = Ed25519PrivateKey.from_private_bytes(seed)
    assert _core.ed25519_public_key(seed) == other.public_key().public_bytes_raw()
    assert _core.ed25519_sign(seed, message) == other.sign(message)


@pytest.mark.parametrize("position", [0, 31, 32, 63])
def test_a_changed_signature_is_refused(position: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[position] ^= 1
    assert not _core.ed25519_verify(PUBLIC_KEY, MESSAGE, bytes(changed))


def test_what_has_another_length_is_no_signature_and_no_key() -> None:
    assert not _core.ed25519_verify(PUBLIC_KEY, MESSAGE, SIGNATURE[:-1])
    assert not _core.ed25519_verify(PUBLIC_KEY[:-1], MESSAGE, SIGNATURE)
    assert not _core.ed25519_verify(b"", MESSAGE, b"")
    with pytest.raises(ValueError, match="length 32"):
        _core.ed25519_sign(SEED[:-1], MESSAGE)
