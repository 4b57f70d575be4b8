"""requests asks agents."""

from __future__ import annotations

import requests

import pilotstack.requests


def ask(socket: str, url: str) -> str:
    """The text behind a URL such as ``http://agent-b/status``."""
    with requests.Session() as session:
        session.mount("http://agent-b", pilotstack.requests.Adapter(socket_path=socket))
        return session.get(url).text
