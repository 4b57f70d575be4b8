"""An agent's web site: a page and a status, for browsers and programs alike.

    python site.py [PORT]

Browsers and curl reach it through a gateway: docs/how-to/gateway.md.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler

from pilotstack import sync

PAGE = """<!DOCTYPE html>
<html>
<head><title>Pilot Protocol</title></head>
<body>
<h1>Hello from Pilot Protocol</h1>
<p>This page is served over the Pilot Protocol overlay network.</p>
</body>
</html>
"""


class Site(BaseHTTPRequestHandler):
    """Answers the requests of one stream."""

    protocol_version = "HTTP/1.1"
    port = 80

    def do_GET(self) -> None:
        """Answers a request."""
        if self.path == "/status":
            status = {"status": "ok", "protocol": "pilot", "port": self.port}
            text = json.dumps(status, separators=(",", ":"))
            self.answer(200, "application/json", text.encode())
        elif self.path == "/":
            self.answer(200, "text/html; charset=utf-8", PAGE.encode())
        else:
            self.answer(404, "text/plain; charset=utf-8", b"there is no such page\n")

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Sends an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(port: int, site: type[Site] = Site) -> None:
    """Serves until the process ends. Each stream has a thread of its own."""

    def handle(stream: sync.Stream) -> None:
        remote = stream.remote_address
        with stream:
            # The handler uses of its server nothing but the name, which we do not send.
            site(stream, (str(remote.address), remote.port), None)  # type: ignore[arg-type]

    with sync.Driver() as driver, driver.listen(port) as listener:
        site.port = listener.port
        print(f"serving port {listener.port}", flush=True)
        listener.serve(handle)


if __name__ == "__main__":
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 80)
