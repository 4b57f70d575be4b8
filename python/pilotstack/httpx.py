"""httpx to agents: ``httpx.AsyncClient(transport=pilotstack.httpx.AsyncTransport())``."""

from __future__ import annotations

from pilotstack.services.adapters.httpx import AsyncTransport, Transport

__all__ = ["AsyncTransport", "Transport"]
