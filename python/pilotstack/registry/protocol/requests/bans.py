"""Requests of the operator about keys that may not register."""

from __future__ import annotations

from typing import ClassVar, Final

from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import NodeId, R, Reply, Request


class BanReply(Reply, frozen=True):
    """As it is now."""

    node_id: NodeId
    banned: bool


class BanNodeReply(BanReply, frozen=True, tag="ban_node_ok"):
    """The node is off the network."""


class UnbanNodeReply(BanReply, frozen=True, tag="unban_node_ok"):
    """Its key may register again."""


class OfOperator(Request[R], frozen=True, kw_only=True):
    """An order of the operator about a node."""

    errors: ClassVar[frozenset[Code]] = frozenset({Code.ADMIN_TOKEN, Code.NODE_NOT_FOUND})

    node_id: NodeId = 0


class BanNode(OfOperator[BanNodeReply], frozen=True, kw_only=True, tag="ban_node"):
    """Takes a node off the network, and refuses its key from now on."""


class UnbanNode(OfOperator[UnbanNodeReply], frozen=True, kw_only=True, tag="unban_node"):
    """Lets a key register again."""


REQUESTS: Final = (BanNode, UnbanNode)
