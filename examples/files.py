"""Moves files between agents.

    python files.py receive DIRECTORY [PORT]
    python files.py send agent-b:3000 FILE...

One stream for each file: a line of JSON with name, size and SHA-256, then the contents. The
receiver answers with a line. A stream that breaks, or ends too early, leaves no file behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from pilotstack import sync

CHUNK = 1 << 20
MAX_HEADER = 1 << 12


def send(target: str, *names: str) -> None:
    """Sends files, one after the other."""
    with sync.Driver() as driver:
        for path in map(Path, names):
            with path.open("rb") as file, driver.dial(target) as stream:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                header = {"name": path.name, "size": file.tell(), "sha256": digest}
                file.seek(0)
                stream.sendall(json.dumps(header).encode() + b"\n")
                stream.sendfile(file)
                answer = stream.makefile("r").readline().strip()
                print(f"{path.name}: {answer}", flush=True)


def take(stream: sync.Stream, directory: Path) -> str:
    """Takes one file; the answer to its sender.

    Raises:
        ValueError: what comes is no file, or not all of it.
    """
    with stream.makefile("rb") as source:
        header = json.loads(source.readline(MAX_HEADER))
        # The name is another's: only its last part counts, and nothing is overwritten.
        name = Path(header["name"]).name
        if not name or (directory / name).exists():
            return f"there is a {name!r} already"
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".", delete=False) as file:
            try:
                digest, left = hashlib.sha256(), int(header["size"])
                while left > 0 and (chunk := source.read(min(left, CHUNK))):
                    file.write(chunk)
                    digest.update(chunk)
                    left -= len(chunk)
                if left or digest.hexdigest() != header["sha256"]:
                    raise ValueError(f"{name} is not complete")
                os.link(file.name, directory / name)
            finally:
                Path(file.name).unlink()
    return "stored"


def receive(directory: str, port: str = "3000") -> None:
    """Takes files until the process ends."""

    def handle(stream: sync.Stream) -> None:
        # If this fails the stream is still open, and `serve` resets it: its end would look like
        # success to the sender.
        answer = take(stream, Path(directory))
        with stream:
            stream.sendall(answer.encode() + b"\n")

    def on_error(error: Exception, stream: sync.Stream) -> None:
        print(f"{stream.remote_address}: {error}", file=sys.stderr, flush=True)

    with sync.Driver() as driver, driver.listen(int(port)) as listener:
        print(f"receiving on port {listener.port}", flush=True)
        listener.serve(handle, on_error=on_error)


def main(command: str, *arguments: str) -> None:
    """Runs a command of the command line."""
    if command == "send":
        send(*arguments)
    else:
        receive(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
