"""The operator's settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's settings. Times are in seconds."""

    #: Creates networks and replaces signatures; empty if there is none.
    admin_token: str = ""
    #: Silence after which a node counts as offline (heartbeats come every 30 to 60).
    stale_after: float = 600.0
    #: A new key with the owner of a deregistered node gets that node's id.
    allows_owner_reclaim: bool = False
    #: How long after deregistration that becomes possible.
    reclaim_after: float = 3600.0
    #: A signed registration may name a public endpoint other than its source address.
    allows_named_endpoints: bool = False
    #: Every registration must be signed.
    requires_signed_registration: bool = False
    #: The first id that is assigned.
    first_node: int = 1
    max_nodes: int = 1_000_000
    #: Valid signatures to cache; three per node keep heartbeats cheap.
    verified_signatures: int = 1 << 19
    #: A copy of another registry, which no request may change.
    is_standby: bool = False
    #: Mixed into the salts of tokens; random, and different in each process.
    salt: bytes = b""
