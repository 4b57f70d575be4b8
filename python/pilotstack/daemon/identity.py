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

#: Bytes of an identity file at most.
_MAX_FILE = 64 << 10
_SEED_LEN = 32
_PRIVATE_LEN = 64


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A key pair; ``seed`` is 32 secret bytes."""

    seed: bytes

    @classmethod
    def generate(cls) -> Identity:
        """A new key pair, which is not stored."""
        return cls(os.urandom(_SEED_LEN))

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return ed25519_public_key(self.seed)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return ed25519_sign(self.seed, message)


def load_or_create(path: Path) -> Identity:
    """The identity in a file, which is created with mode 0600 if it is missing.

    Raises:
        InvalidArgument: the file holds no identity, or cannot be read or written. It is unchanged.
    """
    try:
        return load(path)
    except FileNotFoundError:
        return _create(path)


def load(path: Path) -> Identity:
    """The identity in a file.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidArgument: the file holds no identity, or cannot be read. It is unchanged.
    """
    return decode(read(path), path)


def read(path: Path) -> bytes:
    """The content of an identity file.

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
    """Parses the content of the identity file ``path``.

    Raises:
        InvalidArgument: it is malformed, or the private and public key do not match.
    """
    try:
        private = base64.b64decode(msgspec.json.decode(text)["private_key"], validate=True)
        identity = Identity(private[:_SEED_LEN])
        if len(private) != _PRIVATE_LEN or private[_SEED_LEN:] != identity.public_key:
            raise ValueError("private and public key do not match")
    except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(
            f"{path} holds no identity: {error}",
            hint="restore the file from a backup, or name another with --identity",
        ) from error
    return identity


def encode(identity: Identity, **more: object) -> bytes:
    """The content of an identity file. Existing daemons ignore members that they do not know."""
    public = identity.public_key
    return msgspec.json.encode(
        {
            "private_key": base64.b64encode(identity.seed + public).decode("ascii"),
            "public_key": base64.b64encode(public).decode("ascii"),
            **more,
        }
    )


def beside(identity: Path, kind: str) -> Path:
    """The file of other state of a node: ``KIND.json`` beside ``identity.json``, ``NAME.KIND.json``
    beside ``NAME.json``."""
    if identity.name == "identity.json":
        return identity.with_name(f"{kind}.json")
    return identity.with_name(f"{identity.stem}.{kind}.json")


def write_new(path: Path, text: bytes) -> None:
    """Creates an identity file of mode 0600; it is durable when this returns.

    Raises:
        FileExistsError: the file exists; it is unchanged.
        InvalidArgument: the file cannot be written.
    """
    try:
        _paths.make_directories(path.parent)
        # Never replaces an identity that another process has created meanwhile.
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
