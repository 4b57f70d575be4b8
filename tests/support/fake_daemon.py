"""A scripted daemon socket: greets, answers every request, and can stop reading."""

from __future__ import annotations

import array
import json
import socket
import threading
from typing import TYPE_CHECKING, Self

from pilotstack.ipc import codes
from pilotstack.ipc.frames import endpoint, frame
from pilotstack.ipc.layout import U16, U32
from pilotstack.types import Address

if TYPE_CHECKING:
    from pathlib import Path

#: What both directions of its sockets hold, so that frames are easily cut.
BUFFER = 4096
END = endpoint(Address(0, 42), 80)


class FakeDaemon:
    """Serves drivers on a path, each in a thread.

    Args:
        greets: answer Hello.
    """

    def __init__(self, path: Path, *, greets: bool = True) -> None:
        self.path = path
        self.greets = greets
        #: Bodies of the frames that arrived whole.
        self.frames: list[bytes] = []
        self.reads = threading.Event()
        self.reads.set()
        self.refusal = b""
        #: Commands that it refuses: the port is in use.
        self.refused: set[int] = set()
        self._ends: list[socket.socket] = []
        self._clients: list[socket.socket] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(16)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reads.set()
        # Closing alone does not wake who waits.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.end_sessions()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def end_sessions(self) -> None:
        """Closes every driver's connection."""
        for client in self._clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def give_stream(self, number: int, client: int = 0, port: int = 80) -> socket.socket:
        """Hands a stream to a listener; the daemon's end."""
        ours, theirs = socket.socketpair()
        self._ends.append(ours)
        body = frame(codes.STREAM_ACCEPTED, U16.pack(port), U32.pack(number), END)
        fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
        self._clients[client].sendmsg([body], fds)
        theirs.close()
        return ours

    def give_datagram(self, data: bytes, client: int = 0, port: int = 80) -> None:
        """Sends a datagram to a port."""
        self._clients[client].sendall(frame(codes.RECV_FROM, END, U16.pack(port), data))

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as file:
            if self.refusal:
                client.sendall(self.refusal)
                return
            try:
                while length := file.read(codes.LENGTH_LEN):
                    body = file.read(int.from_bytes(length))
                    if not self.reads.is_set():
                        self.reads.wait()
                    self.frames.append(body)
                    client.sendall(self._answer(body[0], body[1:]))
            except OSError:
                return

    def _answer(self, command: int, payload: bytes) -> bytes:
        number = payload[:4]
        if command in self.refused:
            reason = {"code": "already_exists", "message": "port 80 already bound"}
            return frame(codes.FAILURE, number, json.dumps(reason).encode())
        if command == codes.HELLO and self.greets:
            return frame(codes.HELLO_OK, U16.pack(1))
        port = U16.pack(int.from_bytes(payload[4:6]) or 80)
        if command == codes.LISTEN_STREAMS:
            return frame(codes.LISTENING, number, port)
        if command == codes.BIND_DATAGRAMS:
            return frame(codes.DATAGRAMS_BOUND, number, port)
        if command == codes.REQUEST:
            info = {
                "node_id": 42,
                "address": "0:0000.0000.002A",
                "asked": payload[5:].decode(errors="replace"),
            }
            return frame(codes.REPLY, number, bytes((payload[4] + 1,)), json.dumps(info).encode())
        return b""
