"""Replies of a registry as commands show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from pilotstack.errors import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

_Record = TypeVar("_Record", bound=msgspec.Struct)


class NodeRecord(msgspec.Struct, frozen=True):
    """A node, with the members that the registry tells us."""

    node_id: int
    address: str
    networks: tuple[int, ...] | UnsetType = UNSET
    public_key: str | UnsetType = UNSET
    public: bool | UnsetType = UNSET
    polo_score: int | UnsetType = UNSET
    key_generation: int | UnsetType = UNSET
    hostname: str | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    task_exec: bool | UnsetType = UNSET
    relay_only: bool | UnsetType = UNSET
    version: str | UnsetType = UNSET
    last_seen_unix: int | UnsetType = UNSET
    offline: bool | UnsetType = UNSET
    real_addr: str | UnsetType = UNSET
    endpoint: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class KeyRecovered(msgspec.Struct, frozen=True):
    """A node has a new key, which is in the file ``identity``."""

    node_id: int
    address: str
    public_key: str
    type: str = "recover_identity_ok"
    identity: str = ""


def record_of(kind: type[_Record], reply: Mapping[str, object]) -> _Record:
    """The known members of a reply.

    Raises:
        ConnectionFailed: a member is missing or has the wrong type.
    """
    try:
        return msgspec.convert(reply, kind)
    except msgspec.ValidationError as error:
        raise ConnectionFailed(f"registry: a malformed reply: {error}") from error
