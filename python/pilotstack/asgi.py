"""ASGI on the overlay: ``await pilotstack.asgi.serve(app)``, and ``peer_of(scope)``: who asks."""

from __future__ import annotations

from pilotstack.services.adapters.asgi import EXTENSION, Peer, Server, peer_of, serve

__all__ = ["EXTENSION", "Peer", "Server", "peer_of", "serve"]
