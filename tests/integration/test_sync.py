"""The blocking SDK, over the same daemons."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pilotstack import sync
from pilotstack.errors import ConnectionRefused, NotRunning, TimedOut

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.testing import Network


def read_all(stream: sync.Stream) -> bytes:
    return b"".join(iter(lambda: stream.recv(65_536), b""))


def test_streams_listeners_and_half_close(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name].socket for name in ("agent-a", "agent-b"))
    with sync.listen(6100, socket_path=b) as listener:

        def serve() -> None:
            with listener.accept(timeout=20) as stream:
                stream.sendall(read_all(stream).upper())

        thread = threading.Thread(target=serve)
        thread.start()
        with sync.dial("agent-b:6100", socket_path=a, timeout=20) as stream:
            stream.sendall(b"hello" * 100_000)
            stream.shutdown(1)
            assert read_all(stream) == b"HELLO" * 100_000
            assert stream.remote_address.port == 6100
        thread.join()


def test_a_blocking_datagram_is_answered_where_it_came_from(shared_network: Network) -> None:
    a, b = (shared_network.nodes[name].socket for name in ("agent-a", "agent-b"))
    with (
        sync.Driver(a) as client,
        sync.Driver(b) as server,
        client.datagram() as ours,
        server.datagram(6200) as theirs,
    ):
        ours.send_to(b"ping", "agent-b:6200")
        datagram = theirs.receive(timeout=20)
        theirs.send_to(datagram.data + b"pong", datagram.source)
        assert ours.receive(timeout=20).data == b"pingpong"
        with pytest.raises(TimedOut):
            ours.receive(timeout=0.01)


def test_errors_have_names(shared_network: Network, tmp_path: Path) -> None:
    with sync.Driver(shared_network.nodes["agent-a"].socket) as driver:
        with pytest.raises(ConnectionRefused):
            driver.dial("agent-b:6300")
        assert driver.info().node_id == shared_network.nodes["agent-a"].node_id
    with pytest.raises(NotRunning):
        sync.Driver(tmp_path / "nothing")


def test_a_blocking_driver_renames_its_node_and_ends_a_connection(shared_network: Network) -> None:
    with sync.Driver(shared_network.nodes["agent-a"].socket) as driver:
        driver.set_hostname("agent-y")
        assert driver.resolve("agent-y").node_id == driver.info().node_id
        driver.set_hostname("agent-a")
        driver.set_visibility(public=True)
        with driver.dial("agent-b:7") as stream:
            driver.disconnect(stream.connection_id)
            stream.settimeout(20)
            assert stream.recv(1) == b""
