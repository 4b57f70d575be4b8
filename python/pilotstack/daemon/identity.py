"""The node's long-lived Ed25519 identity and its file."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pilotstack import _files, _paths
from pilotstack._core import ed25519_public_key, ed25519_sign
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes of an identity's file.
_MAX_FILE = 64 << 10
_SEED_LEN = 32
_PRIVATE_LEN = 64


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A key pair; ``seed`` is 32 secret bytes."""

    seed: bytes

    @classmethod
    def generate(cls) -> Identity:
        """A new one, kept nowhere."""
        return cls(os.urandom(_SEED_LEN))

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return ed25519_public_key(self.seed)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return ed25519_sign(self.seed, message)


def load_or_create(path: Path) -> Identity:
    """The identity of a file; a missing file is made, readable by its owner alone.

    Raises:
        InvalidArgument: the file holds no identity, or cannot be read or written. It is left as it
            is.
    """
    try:
        return load(path)
    except FileNotFoundError:
        return _create(path)


def load(path: Path) -> Identity:
    """The identity of a file.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidArgument: the file holds no identity, or cannot be read. It is left as it is.
    """
    return decode(read(path), path)


def read(path: Path) -> bytes:
    """A file that holds a key.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidArgument: it cannot be read.
    """
    try:
        return _files.read_regular(path, _MAX_FILE)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidArgument(f"cannot read the identity {path}: {error.strerror}") from error


def decode(text: bytes, path: Path) -> Identity:
    """The identity that was read from ``path``.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        private = base64.b64decode(msgspec.json.decode(text)["private_key"], validate=True)
        identity = Identity(private[:_SEED_LEN])
        if len(private) != _PRIVATE_LEN or private[_SEED_LEN:] != identity.public_key:
            raise ValueError("the key's halves do not belong together")
    except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(
            f"{path} holds no identity: {error}",
            hint="restore the file from a backup, or name another with --identity",
        ) from error
    return identity


def encode(identity: Identity, **more: object) -> bytes:
    """What a file of this identity holds; existing daemons read past ``more``."""
    public = identity.public_key
    return msgspec.json.encode(
        {
            "private_key": base64.b64encode(identity.seed + public).decode("ascii"),
            "public_key": base64.b64encode(public).decode("ascii"),
            **more,
        }
    )


def write_new(path: Path, text: bytes) -> None:
    """Makes a file that its owner alone can read; when this returns, it survives a crash.

    Raises:
        FileExistsError: there is one, which is left as it is.
        InvalidArgument: it cannot be written.
    """
    try:
        _paths.make_directories(path.parent)
        # Never over an identity that somebody else made meanwhile.
        _files.replace(path, [text], is_new=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise InvalidArgument(f"cannot write the identity {path}: {error.strerror}") from error


def _create(path: Path) -> Identity:
    identity = Identity.generate()
    try:
        write_new(path, encode(identity))
    except FileExistsError:
        return load(path)
    return identity
