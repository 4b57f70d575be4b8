"""Aggregate figures of a registry, computed in steps so that requests get their turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from pilotstack.types import Address

if TYPE_CHECKING:
    from pilotstack.registry.model.state import State

#: Rows per step.
_CHUNK: Final = 2000


@dataclass(frozen=True, slots=True)
class NetworkFigures:
    """A network with its members and those of them that are online."""

    network_id: int
    name: str
    join_rule: str
    members: int
    online: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Aggregate figures, about no node in particular."""

    total_nodes: int = 0
    #: Online.
    active_nodes: int = 0
    #: Pairs that trust each other.
    trust_links: int = 0
    unique_tags: int = 0
    task_executors: int = 0
    networks: tuple[NetworkFigures, ...] = ()


async def gather(state: State) -> Statistics:
    """The figures of a state, which may change meanwhile."""
    tags: set[str] = set()
    executors = 0
    for number, node_id in enumerate(list(state.nodes)):
        if number % _CHUNK == _CHUNK - 1:
            await anyio.lowlevel.checkpoint()
        node = state.nodes.get(node_id)
        if node is not None and not node.gone_at:
            tags.update(node.tags)
            executors += node.task_exec
    links = 0
    for number, first in enumerate(list(state.claims.groups)):
        if number % _CHUNK == _CHUNK - 1:
            await anyio.lowlevel.checkpoint()
        links += sum(
            first < second and (second, first) in state.claims for second in state.claims.of(first)
        )
    active = state.live_nodes - len(state.offline)
    networks = [NetworkFigures(0, "backbone", "open", state.live_nodes, active)]
    for network_id, network in list(state.networks.items()):
        members = state.members.of(network_id)
        online = sum(member not in state.offline and member in state.seen for member in members)
        networks.append(
            NetworkFigures(network_id, network.name, network.join_rule, len(members), online)
        )
    return Statistics(state.live_nodes, active, links, len(tags), executors, tuple(networks))


def trusted_pairs(state: State) -> list[tuple[int, int]]:
    """Pairs of nodes that trust each other."""
    return [
        (first, second)
        for first, group in state.claims.groups.items()
        for second in group
        if first < second and (second, first) in state.claims
    ]


def nodes_and_edges(state: State) -> dict[str, object]:
    """Every node and the trust graph, as existing dashboards draw them. For the operator only."""
    live = {node_id: node for node_id, node in state.nodes.items() if not node.gone_at}
    edges = trusted_pairs(state)
    degrees: dict[int, int] = {}
    for edge in edges:
        for node_id in edge:
            degrees[node_id] = degrees.get(node_id, 0) + 1
    return {
        "nodes": [
            {
                "address": node.address,
                "tags": list(node.tags),
                "online": node_id not in state.offline,
                "trust_links": degrees.get(node_id, 0),
                "task_exec": node.task_exec,
                "polo_score": node.polo_score,
            }
            for node_id, node in sorted(live.items(), key=lambda item: item[1].address)
        ],
        "edges": [
            {"source": str(Address(0, first)), "target": str(Address(0, second))}
            for first, second in edges
        ],
    }
