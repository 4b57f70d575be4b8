"""aiohttp to agents: ``aiohttp.ClientSession(connector=pilotstack.aiohttp.Connector())``."""

from __future__ import annotations

from pilotstack.services.adapters.aiohttp import Connector

__all__ = ["Connector"]
