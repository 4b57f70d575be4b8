"""The standard library's http.server serves agents, in a thread for each stream."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotstack import sync


class Greeter(BaseHTTPRequestHandler):
    """Greets whoever asks."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers a request."""
        body = f"hello {self.client_address[0]}, this is {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def handle(stream: sync.Stream) -> None:
    """Answers the requests of one stream."""
    with stream:
        # Of its server the handler uses nothing but the name, which we do not send.
        Greeter(stream, stream.getpeername(), None)  # type: ignore[arg-type]


def serve(listener: sync.Listener) -> None:
    """Serves until the listener is closed."""
    listener.serve(handle)
