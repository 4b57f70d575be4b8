"""What the operator decided."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided. Times are seconds."""

    #: Creates networks and stands in for signatures; empty means that there is none.
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
    #: The first id given out (the address plan of the whitepaper has names for 1 to 3).
    first_node: int = 1
    max_nodes: int = 1_000_000
    #: Verified signatures to remember; three for each node make heartbeats cheap.
    verified_signatures: int = 1 << 19
    #: A copy of another registry: nothing a request does may change it.
    is_standby: bool = False
    #: Mixed into the salts of tokens; random, and different in each process.
    salt: bytes = b""
