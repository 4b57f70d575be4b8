"""requests to agents: ``session.mount("http://agent-b", pilotstack.requests.Adapter())``."""

from __future__ import annotations

from pilotstack.services.adapters.requests import Adapter, PoolManager

__all__ = ["Adapter", "PoolManager"]
