"""A connection of a peer, and what its parts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.services.data_exchange.reader import Reader

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pilotstack.services.data_exchange.stores import Stores
    from pilotstack.types import SocketAddress

__all__ = ["Channel"]


class Channel:
    """One connection.

    Args:
        stream: to the peer.
        peer: its address, which the tunnel has authenticated.
        stores: where things go.
        idle: seconds without a byte after which it ends.
    """

    __slots__ = ("address", "node", "reader", "stores", "stream")

    def __init__(
        self, stream: ByteStream, peer: SocketAddress, stores: Stores, idle: float
    ) -> None:
        self.stream = stream
        self.reader = Reader(stream, idle)
        self.node = peer.address.node
        self.address = str(peer.address)
        self.stores = stores
