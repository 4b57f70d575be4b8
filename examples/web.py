"""HTTP over streams, with the standard library only: a stream is a socket.

    python web.py serve [PORT]
    python web.py get agent-b:80 /path

Servers that listen on a Unix path, such as uvicorn, need no code at all: docs/how-to/http.md.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler

from pilotstack import sync


class Greeter(BaseHTTPRequestHandler):
    """Greets whoever asks."""

    def do_GET(self) -> None:
        """Answers a request."""
        agent = self.client_address[0]
        body = f"hello {agent}, this is {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(port: int) -> None:
    """Serves until the process ends. Each stream has a thread of its own."""

    def handle(stream: sync.Stream) -> None:
        remote = stream.remote_address
        with stream:
            # The handler uses of its server nothing but the name, which we do not send.
            Greeter(stream, (str(remote.address), remote.port), None)  # type: ignore[arg-type]

    with sync.Driver() as driver, driver.listen(port) as listener:
        print(f"serving port {listener.port}", flush=True)
        listener.serve(handle)


class AgentConnection(HTTPConnection):
    """An HTTP connection to an agent."""

    def __init__(self, target: str) -> None:
        super().__init__(target.partition(":")[0])
        self._target = target

    def connect(self) -> None:
        """Dials the agent in place of a host."""
        self.sock = sync.dial(self._target)


def get(target: str, path: str) -> None:
    """Prints the answer to a request."""
    connection = AgentConnection(target)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        print(response.status, response.read().decode(), end="")
    finally:
        connection.close()


def main(command: str, *arguments: str) -> None:
    """Runs a command of the command line."""
    if command == "serve":
        serve(int(arguments[0]) if arguments else 80)
    else:
        get(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
