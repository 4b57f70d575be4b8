"""httpx asks agents, without an event loop."""

from __future__ import annotations

import httpx

import pilotstack.httpx


def ask(socket: str, url: str) -> str:
    """The text behind a URL such as ``http://agent-b/status``."""
    with httpx.Client(transport=pilotstack.httpx.Transport(socket_path=socket)) as client:
        return client.get(url).text
