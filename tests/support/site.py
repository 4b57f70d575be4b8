"""An agent's web site with answers of all kinds: ``python -m tests.support.site``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from examples.site import Site, serve

if TYPE_CHECKING:
    from pilotstack.testing import Node

ROOT = Path(__file__).parents[2]


class ManyKinds(Site):
    """Also reads bodies, and answers in chunks, until the end, late or not at all."""

    def do_GET(self) -> None:
        match self.path:
            case "/chunks":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for part in (b"one, ", b"two, ", b"three"):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n")
            case "/until-the-end":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"as long as it is")
                self.close_connection = True
            case "/cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"not all of it")
                self.close_connection = True
            case "/headers":
                self.answer(200, "text/plain", str(self.headers).encode())
            case "/nonsense":
                self.wfile.write(b"this is not HTTP\r\n\r\n")
                self.close_connection = True
            case "/silence":
                self.close_connection = True
            case _:
                super().do_GET()

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, "application/octet-stream", body)

    def log_message(self, *_: object) -> None:
        pass


class SiteProcess:
    """The site as a process of its own.

    Args:
        node: whose port 80 it is.
    """

    def __init__(self, node: Node) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.site"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PILOT_SOCKET": str(node.socket)},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"serving port 80\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


if __name__ == "__main__":
    serve(80, ManyKinds)
