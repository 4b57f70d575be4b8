"""Keys that may not register: the operator's order, of which every daemon learns at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.rows import Node
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.bans import (
    BanNode,
    BanNodeReply,
    UnbanNode,
    UnbanNodeReply,
)
from pilotstack.registry.rules import removal
from pilotstack.registry.rules.call import changed

if TYPE_CHECKING:
    from pilotstack.registry.rules.call import Call, Handlers

#: Stands for the whole registry where a network's id is expected.
_EVERYWHERE: Final = 0


def ban_node(call: Call[BanNode]) -> BanNodeReply:
    """Takes a node off the network. Its id stays bound to the key, so that the key is known."""
    node = _known(call)
    node_id = node.node_id
    for table, key in removal.rows_of(call.state, node_id):
        call.put(table, key, None)
    call.put_node(
        Node(
            node_id=node_id,
            public_key=node.public_key,
            owner=node.owner,
            is_signed=node.is_signed,
            is_banned=True,
            registered=node.registered,
            gone_at=max(call.at, 1),
        )
    )
    if not node.is_banned:
        call.tell_removal(_EVERYWHERE, node_id, list(call.state.speaking))
    return BanNodeReply(node_id=node_id, banned=True)


def unban_node(call: Call[UnbanNode]) -> UnbanNodeReply:
    """Lets the key register again, with the same id and nothing else of before."""
    node = _known(call)
    if node.is_banned:
        call.put_node(changed(node, is_banned=False))
    return UnbanNodeReply(node_id=node.node_id, banned=False)


def _known(call: Call[BanNode] | Call[UnbanNode]) -> Node:
    """A node that is or was registered.

    Raises:
        Denied: the operator does not ask, or there is none.
    """
    if not call.is_admin():
        kind = call.request.__struct_config__.tag
        raise Denied(f"{kind} requires the admin token", Code.ADMIN_TOKEN)
    node = call.state.nodes.get(call.request.node_id)
    if node is None:
        raise Denied(f"node {call.request.node_id}: node not found", Code.NODE_NOT_FOUND)
    return node


HANDLERS: Final[Handlers] = {BanNode: ban_node, UnbanNode: unban_node}
