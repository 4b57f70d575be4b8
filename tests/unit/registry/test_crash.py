"""Writers that are killed at any moment: everything acknowledged is found afterwards."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from tests.support import crash
from tests.support.registries import host_port
from tests.support.registry import World, key_text

from pilotstack.registry.protocol import framing
from pilotstack.registry.storage.journal import FileStore
from pilotstack.testing import Process

if TYPE_CHECKING:
    from pathlib import Path

#: Kills of a writer and of a whole server. Another seed makes other kills of the same kind.
WRITERS, SERVERS = 180, 20
SEED = int(os.environ.get("PILOT_TEST_SEED", "4"))


def test_a_killed_writer_has_stored_what_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.support.crash"])
    luck = random.Random(SEED)
    acknowledged = 0
    for _ in range(WRITERS):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=crash.write_until_killed, args=(path, send), daemon=True)
        child.start()
        send.close()
        for _ in range(luck.randrange(1, 12)):
            acknowledged = receive.recv()
        for _ in range(luck.randrange(3_000)):
            pass
        child.kill()
        child.join()
        try:
            while True:
                acknowledged = receive.recv()
        except EOFError:
            receive.close()
        child.close()
        store = FileStore(path)
        state = store.load(crash.NOW)
        store.close()
        crash.check(state, acknowledged)
        crash.finish_turn(state, path)
    assert acknowledged > WRITERS


class Client:
    """A node that changes its tags, and makes and ends networks, over a socket of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.world = World()
        # The server has a clock.
        self.world.now = time.time()
        self.node_id = 0
        self.sent = 0
        self.acknowledged = 0

    def serve(self, address: str, on_ack: threading.Semaphore) -> None:
        """Writes until the connection breaks."""
        try:
            with socket.create_connection(host_port(address), timeout=30) as stream:
                self._register(stream)
                while True:
                    self._turn(stream)
                    on_ack.release()
        except OSError:
            return

    def _ask(self, stream: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        stream.sendall(framing.encode(self.world.sign(self.name, request)))
        framer = framing.Framer()
        while (body := framer.next_body()) is None:
            data = stream.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            framer.feed(data)
        return framing.decode(body)

    def _register(self, stream: socket.socket) -> None:
        request = {"type": "register", "public_key": key_text(self.name), "listen_addr": ":4000"}
        self.node_id = self._ask(stream, request)["node_id"]

    def _turn(self, stream: socket.socket) -> None:
        self.sent += 1
        about = {"node_id": self.node_id}
        tag = f"t{self.sent}"
        reply = self._ask(stream, {"type": "set_tags", "tags": [tag], **about})
        assert reply["tags"] == [tag]
        self.acknowledged = self.sent
        network = {"type": "create_network", "name": f"{self.name}-{self.sent}", **about}
        reply = self._ask(stream, network)
        ended = {"type": "delete_network", "network_id": reply["network_id"], **about}
        assert "error" not in self._ask(stream, ended)


def test_a_killed_server_has_stored_what_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    luck = random.Random(SEED)
    clients = [Client(f"c{number}") for number in range(4)]
    for _ in range(SERVERS):
        arguments = ["--registry-addr", "127.0.0.1:0", "--beacon-addr", "127.0.0.1:0"]
        server = Process("rendezvous", [*arguments, "--store", str(path)], tmp_path / "log")
        acks = threading.Semaphore(0)
        threads = [
            threading.Thread(target=client.serve, args=(server.ready["registry"], acks))
            for client in clients
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in range(luck.randrange(4, 40)):
                assert acks.acquire(timeout=30)
        finally:
            server.kill()
            for thread in threads:
                thread.join()
        store = FileStore(path)
        state = store.load(crash.NOW)
        store.close()
        owners = {key for key, member in state.members.pairs() if member.role == "owner"}
        assert {network_id for network_id, _ in owners} == set(state.networks)
        for client in clients:
            (tag,) = state.nodes[client.node_id].tags
            assert client.acknowledged <= int(tag[1:]) <= client.sent
