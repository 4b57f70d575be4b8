"""urllib3 asks agents."""

from __future__ import annotations

import contextlib

import pilotstack.requests


def ask(socket: str, url: str) -> str:
    """The text behind a URL such as ``http://agent-b/status``."""
    with contextlib.closing(pilotstack.requests.PoolManager(socket_path=socket)) as pools:
        return pools.request("GET", url).data.decode()
