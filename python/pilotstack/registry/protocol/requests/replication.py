"""Requests of registries to each other."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pilotstack.registry.protocol.requests.base import (
    Count,
    Long,
    OptionalId,
    OptionalText,
    Reply,
    Request,
)


class StreamReply(Reply, frozen=True, tag="subscribe_replication_ok"):
    """Never sent: a stream of frames follows instead."""


class SubscribeReplication(
    Request[StreamReply], frozen=True, kw_only=True, tag="subscribe_replication"
):
    """A standby wants the state and every change of it."""

    is_read: ClassVar[bool] = True

    #: The replication token.
    token: OptionalText = ""
    #: At least 1 if the standby takes single changes.
    deltas: OptionalId = 0
    #: What the standby has: one life of a primary, and the number of its last delta.
    epoch: OptionalText = ""
    seq: Annotated[int, Meta(ge=0, le=(1 << 63) - 1, extra={"optional": True})] = 0


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What a primary sends to its standbys; which members a frame has depends on its type."""

    type: str = ""
    #: One run of the primary, and the number of a delta.
    epoch: str | UnsetType = UNSET
    seq: Long = 0
    cluster: str = ""
    term: Count | UnsetType = UNSET
    #: The registry's time, in seconds; 0 if it is not sent.
    time: float = 0.0
    #: A part of a snapshot.
    text: str = ""
    #: A whole snapshot, and changes; checked where they are loaded.
    snapshot: object = None
    changes: object = None
    error: str = ""


class AnnounceTermReply(Reply, frozen=True, tag="announce_term_ok"):
    """Read."""


class AnnounceTerm(Request[AnnounceTermReply], frozen=True, kw_only=True, tag="announce_term"):
    """A registry that became the primary says so to the one that it followed before."""

    is_read: ClassVar[bool] = True


REQUESTS: Final = (SubscribeReplication, AnnounceTerm)
