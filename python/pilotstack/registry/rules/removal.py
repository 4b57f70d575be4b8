"""Everything that belongs to a node, for one that is to leave nothing behind.

What others keep about it alone, such as their half of a trust, expires by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.registry.model.rows import Key
    from pilotstack.registry.model.state import State


def rows_of(state: State, node_id: int) -> Iterator[tuple[str, Key]]:
    """Tables and keys of its rows, itself last."""
    for network_id in state.networks_of.get(node_id, ()):
        yield "members", (network_id, node_id)
    for peer_id in list(state.claims.of(node_id)):
        yield "claims", (node_id, peer_id)
        if (peer_id, node_id) in state.claims:
            yield "claims", (peer_id, node_id)
        for table, rows in (("requests", state.requests), ("responses", state.responses)):
            if (peer_id, node_id) in rows:
                yield table, (peer_id, node_id)
    for table in ("requests", "responses", "invites", "rotations"):
        for other in list(state.tables[table].of(node_id)):
            yield table, (node_id, other)
    for table in ("keys", "recoveries"):
        if node_id in state.tables[table]:
            yield table, node_id
    yield "nodes", node_id
