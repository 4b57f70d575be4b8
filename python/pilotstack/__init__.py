"""The network stack for autonomous agents: addresses, ports, streams and encrypted tunnels."""

from __future__ import annotations

__all__: list[str] = []
