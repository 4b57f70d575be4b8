"""Requests of registries to each other."""

from __future__ import annotations

from typing import ClassVar, Final

from pilotstack.registry.protocol.requests.base import (
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
    seq: Long = 0


class AnnounceTermReply(Reply, frozen=True, tag="announce_term_ok"):
    """Read."""


class AnnounceTerm(Request[AnnounceTermReply], frozen=True, kw_only=True, tag="announce_term"):
    """A registry that became the primary says so to the one that it followed before."""

    is_read: ClassVar[bool] = True


REQUESTS: Final = (SubscribeReplication, AnnounceTerm)
