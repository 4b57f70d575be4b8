"""Keys and frames of the secure channel, without IO
(docs/reference/protocol/services/secure.md#frames).

::

    0        4                16                    12 + length
    +--------+----------------+---------------------+----------+
    | length | nonce          | ciphertext          | tag      |
    +--------+----------------+---------------------+----------+
             | role | counter |

X25519 (RFC 7748), AES-256-GCM (NIST SP 800-38D), HKDF (RFC 5869).
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pilotstack.errors import StreamBroken

__all__ = ["Channel", "Role", "SecureError", "Suite", "agree", "derive"]

KEY_LEN: Final = 32
_LENGTH_LEN: Final = 4
_PREFIX_LEN: Final = 4
_NONCE_LEN: Final = 12
_TAG_LEN: Final = 16
#: Bytes of a frame behind its length field: those of an empty text, and at most.
MIN_FRAME: Final = _NONCE_LEN + _TAG_LEN
MAX_FRAME: Final = 1 << 24
#: Bytes of text in a frame of ours.
CHUNK: Final = 1 << 16
#: Frames of one direction. The nonce would last longer; a channel of 2**48 bytes is renewed.
MAX_FRAMES: Final = 1 << 32

#: What goes wrong on a channel.
Reason = Literal[
    "handshake", "unauthentic", "replayed", "oversized", "truncated", "torn", "exhausted"
]


class SecureError(StreamBroken):
    """The channel cannot be trusted or used any more.

    ``reason`` is ``handshake`` (no key was agreed, or the peer is not who it should be),
    ``unauthentic`` (a frame that nobody with the key made), ``replayed`` (a frame out of its
    order), ``oversized``, ``truncated`` (the stream ended within a frame), ``torn`` (a cancelled
    ``send`` left a part of a frame) or ``exhausted`` (the key was used up).
    """

    def __init__(self, message: str, *, reason: Reason, hint: str | None = None) -> None:
        super().__init__(message, reason=reason, hint=hint)


class Role(Enum):
    """An end of a channel; its value begins the nonces of what it sends."""

    SERVER = b"\0\0\0\1"
    CLIENT = b"\0\0\0\2"

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.CLIENT if self is Role.SERVER else Role.SERVER


class Suite(Enum):
    """How the key is derived. Nothing on the wire tells which one a peer uses."""

    #: SHA-256; frames without associated data.
    G1 = "g1"
    #: HKDF; the nonce's prefix is associated data.
    G2 = "g2"


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """The secret that both ends share.

    Raises:
        SecureError: the peer's key is none, or of a small order (RFC 7748, 6.1).
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise SecureError("the peer's key is invalid", reason="handshake") from error


def derive(suite: Suite, shared: bytes) -> bytes:
    """The key of both directions."""
    if suite is Suite.G1:
        return hashlib.sha256(b"pilot-secure-v1:" + shared).digest()
    return HKDF(hashes.SHA256(), KEY_LEN, salt=None, info=b"pilot-secure-v1").derive(shared)


def _associated(suite: Suite, prefix: bytes) -> bytes | None:
    return None if suite is Suite.G1 else prefix


class Channel:
    """Both directions of one channel.

    The receiver takes frames in their order only: each counter is the last one plus one, and the
    prefix is the peer's.

    Args:
        role: which end this is.
        shared: the secret of :func:`agree`.
        suite: the peer's; without one, the first frame that arrives decides, or, if we send before,
            it is G1.
    """

    def __init__(self, role: Role, shared: bytes, suite: Suite | None = None) -> None:
        self._role = role
        suites = [suite] if suite is not None else list(Suite)
        self._ciphers = {each: AESGCM(derive(each, shared)) for each in suites}
        self._sent = 0
        self._received = 0
        self._buffer = bytearray()

    @property
    def suite(self) -> Suite | None:
        """The suite in use; ``None`` while it is open."""
        return next(iter(self._ciphers)) if len(self._ciphers) == 1 else None

    def _settle(self, suite: Suite) -> None:
        self._ciphers = {suite: self._ciphers[suite]}

    def seal(self, text: bytes | memoryview) -> bytes:
        """The frame of a text of at most :data:`CHUNK` bytes.

        Raises:
            SecureError: the key is used up.
        """
        if self._sent >= MAX_FRAMES:
            raise SecureError(
                "the channel's key is used up", reason="exhausted", hint="open another channel"
            )
        suite = self.suite or Suite.G1
        self._settle(suite)
        self._sent += 1
        prefix = self._role.value
        nonce = prefix + self._sent.to_bytes(8)
        sealed = self._ciphers[suite].encrypt(nonce, text, _associated(suite, prefix))
        return (len(nonce) + len(sealed)).to_bytes(_LENGTH_LEN) + nonce + sealed

    @property
    def has_part(self) -> bool:
        """Whether a frame has begun to arrive."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Takes what arrived."""
        self._buffer += data

    def open(self) -> bytes | None:
        """The text of the next frame; ``None`` until it has arrived.

        Raises:
            SecureError: the frame is not the next one of the peer.
        """
        buffer = self._buffer
        if len(buffer) < _LENGTH_LEN:
            return None
        length = int.from_bytes(buffer[:_LENGTH_LEN])
        if length > MAX_FRAME:
            raise SecureError(f"a frame of {length} bytes", reason="oversized")
        if length < MIN_FRAME:
            raise SecureError("a frame too short for its tag", reason="unauthentic")
        end = _LENGTH_LEN + length
        if len(buffer) < end:
            return None
        nonce, sealed = bytes(buffer[_LENGTH_LEN:16]), bytes(buffer[16:end])
        del buffer[:end]
        return self._opened(nonce, sealed)

    def _opened(self, nonce: bytes, sealed: bytes) -> bytes:
        prefix = self._role.peer.value
        # Checked before the tag: what is authentic, but reflected or repeated, is no text either.
        if nonce != prefix + (self._received + 1).to_bytes(8):
            raise SecureError("a frame out of its order", reason="replayed")
        for suite, cipher in self._ciphers.items():
            try:
                text = cipher.decrypt(nonce, sealed, _associated(suite, prefix))
            except InvalidTag:
                continue
            self._settle(suite)
            self._received += 1
            return text
        raise SecureError(
            "a frame that does not open",
            reason="unauthentic",
            hint="the peer may derive its key in the other way: see Suite",
        )
