"""Primary and standby: reads on the standby, failover, and no lost writes."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.support.registries import TOKEN, Raw, Registries
from tests.support.registry import key_text

from pilotstack import Driver
from pilotstack.daemon.identity import Identity
from pilotstack.errors import ConnectionFailed, NotFound, PilotError
from pilotstack.registry.client import parse_addresses
from pilotstack.testing import Process

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.registry.client import RegistryClient

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until_known(client: RegistryClient, node_id: int) -> None:
    """Asks until a node is known."""
    with anyio.fail_after(30):
        while True:
            # Not there yet, or nothing is.
            with suppress(NotFound, ConnectionFailed):
                await client.lookup(node_id)
                return


async def register(client: RegistryClient, hostname: str = "") -> int:
    registration = await client.register("127.0.0.1:4000", hostname=hostname)
    return registration.node_id


async def test_a_standby_serves_reads_and_names_the_primary_for_writes(
    registries: Registries,
) -> None:
    primary = registries.start_primary()
    writer = registries.client(primary)
    node_id = await register(writer, "before")
    standby = registries.start_standby(primary)
    reader = registries.client(standby)
    await until_known(reader, node_id)
    await writer.set_hostname("after")
    with anyio.fail_after(30):
        while (await reader.lookup(node_id))["hostname"] != "after":
            pass
    assert (await reader.resolve_hostname("after"))["node_id"] == node_id
    with Raw(standby) as raw:
        for kind in ("register", "heartbeat", "poll_handshakes", "create_network", "punch_"):
            reply = raw.ask({"type": kind, "node_id": node_id})
            if kind == "punch_":
                assert reply["error"] == 'unknown message type: "punch_"'
                continue
            del reply["cluster"], reply["term"]
            assert reply == {
                "type": "error",
                "error": f"standby mode: write operations not accepted (use primary {primary})",
                "code": "standby",
                "primary": primary,
            }
        raw.send({"type": "subscribe_replication", "token": TOKEN})
        assert raw.receive()["error"] == "replication not configured"
        assert raw.is_closed()
    with pytest.raises(ConnectionFailed, match="standby mode"):
        await reader.set_hostname("refused")
    # A client that knows both finds the primary by itself, and stays there.
    both = registries.client(standby, primary)
    other = await register(both, "found")
    assert both.connection.address == writer.connection.address
    await until_known(reader, other)


class Load:
    """Clients that register, and one that notes what the standby shows."""

    def __init__(self, registries: Registries, primary: str, reader: RegistryClient) -> None:
        self._registries = registries
        self._primary = primary
        self._reader = reader
        self.acknowledged: dict[int, tuple[Identity, str]] = {}
        self.replicated: set[int] = set()
        self.enough = anyio.Event()
        self.observation = anyio.CancelScope()

    async def write(self, worker: int) -> None:
        """Registers until the primary is gone."""
        for number in range(1000):
            identity, name = Identity.generate(), f"node-{worker}-{number}"
            client = self._registries.client(self._primary, identity=identity)
            try:
                node_id = await register(client, name)
            except PilotError:
                return
            self.acknowledged[node_id] = (identity, name)
            await client.aclose()

    async def observe(self) -> None:
        """Looks up at the standby what was acknowledged, until cancelled."""
        with self.observation:
            while True:
                for node_id in list(self.acknowledged.keys() - self.replicated):
                    with suppress(NotFound):
                        await self._reader.lookup(node_id)
                        self.replicated.add(node_id)
                if len(self.replicated) >= 400:
                    self.enough.set()
                await anyio.lowlevel.checkpoint()


async def test_a_standby_without_a_copy_claims_nothing(registries: Registries) -> None:
    primary = registries.start_primary()
    node_id = await register(registries.client(primary))
    registries.processes["primary"].kill()
    standby = registries.start_standby(primary)
    with Raw(standby) as raw:
        reply = raw.ask({"type": "lookup", "node_id": node_id})
        assert (
            reply["error"] == f"standby mode: nothing has been copied yet (use primary {primary})"
        )
        assert reply["code"] == "standby"
    registries.start_primary()
    await until_known(registries.client(standby), node_id)


async def test_no_acknowledged_and_replicated_write_is_lost(registries: Registries) -> None:
    primary = registries.start_primary()
    standby = registries.start_standby(primary)
    first = await register(registries.client(primary))
    reader = registries.client(standby)
    await until_known(reader, first)

    load = Load(registries, primary, reader)
    async with anyio.create_task_group() as tasks:
        for worker in range(8):
            tasks.start_soon(load.write, worker)
        tasks.start_soon(load.observe)
        with anyio.fail_after(60):
            await load.enough.wait()
        registries.processes["primary"].kill()
        load.observation.cancel()
    acknowledged, replicated = load.acknowledged, load.replicated
    # Reads go on at once, before anybody has done anything.
    for node_id in replicated:
        assert (await reader.lookup(node_id))["hostname"] == acknowledged[node_id][1]
    assert registries.processes["standby"].stop() == 0
    promoted = registries.start_primary("standby")
    assert promoted == standby
    survivor = registries.client(primary, promoted)
    for node_id in replicated:
        identity, name = acknowledged[node_id]
        record = await survivor.record(node_id)
        assert (record.public_key, record.hostname) == (identity.public_key, name)
    # Whoever registered keeps its id, and new ones get new ids.
    node_id = max(replicated)
    again = registries.client(primary, promoted, identity=acknowledged[node_id][0])
    assert await register(again) == node_id
    assert await register(registries.client(promoted)) > node_id
    assert "promoted" in registries.log_of("standby")


async def test_a_replaced_primary_is_not_followed(registries: Registries) -> None:
    primary = registries.start_primary()
    standby = registries.start_standby(primary)
    node_id = await register(registries.client(primary))
    reader = registries.client(standby)
    await until_known(reader, node_id)
    registries.processes["primary"].kill()
    registries.processes["standby"].stop()
    registries.start_primary("standby")
    newer = await register(registries.client(standby))
    registries.processes["standby"].stop()
    # The old primary comes back, and what was promoted is made its standby again by mistake.
    registries.start_primary()
    registries.start_standby(primary, "standby")
    with anyio.fail_after(30):
        while "this registry was replaced" not in registries.log_of("standby"):
            await anyio.lowlevel.checkpoint()
    assert (await reader.lookup(newer))["node_id"] == newer


async def test_a_stopped_primary_that_goes_on_takes_no_writes(registries: Registries) -> None:
    primary = registries.start_primary()
    standby = registries.start_standby(primary)
    first = registries.client(primary)
    await until_known(registries.client(standby), await register(first, "first"))
    os.kill(registries.processes["primary"].pid, signal.SIGSTOP)
    registries.processes["standby"].stop()
    promoted = registries.start_primary("standby")
    os.kill(registries.processes["primary"].pid, signal.SIGCONT)
    with anyio.fail_after(30):
        while "it knows that it was replaced" not in registries.log_of("standby"):
            await anyio.lowlevel.checkpoint()
    with Raw(primary) as raw:
        reply = raw.ask({"type": "register", "public_key": key_text("late")})
        assert (reply["code"], reply["replaced"]) == ("standby", True)
    # A client with both finds the one that serves, whichever it asks first.
    client = registries.client(primary, promoted)
    assert await register(client, "late")
    assert client.connection.address == parse_addresses(promoted)[0]
    # A restart does not make it forget, and as a standby it is of use again.
    registries.processes["primary"].stop()
    registries.start_primary()
    with Raw(primary) as raw:
        assert raw.ask({"type": "register", "public_key": key_text("late")})["code"] == "standby"
    registries.processes["primary"].stop()
    registries.start_standby(promoted, "primary")
    await until_known(registries.client(primary), client.node_id)


async def test_what_only_the_old_primary_has_is_kept_when_it_follows(
    registries: Registries,
) -> None:
    primary = registries.start_primary()
    standby = registries.start_standby(primary)
    await until_known(registries.client(standby), await register(registries.client(primary)))
    registries.processes["standby"].stop()
    alone = await register(registries.client(primary), "only-here")
    registries.processes["primary"].kill()
    promoted = registries.start_primary("standby")
    registries.start_standby(promoted, "primary")
    reader = registries.client(primary)
    with anyio.fail_after(30):
        while True:
            try:
                await reader.lookup(alone)
            except NotFound:
                break
    kept = diverged(registries.directory)
    assert "only-here" in kept
    assert "diverged" in registries.log_of("primary")


def diverged(directory: Path) -> str:
    (path,) = directory.glob("primary.json.diverged-*")
    return path.read_text()


async def test_a_primary_that_lost_everything_takes_nothing_from_its_standby(
    registries: Registries,
) -> None:
    primary = registries.start_primary()
    standby = registries.start_standby(primary)
    node_id = await register(registries.client(primary), "kept")
    reader = registries.client(standby)
    await until_known(reader, node_id)
    registries.processes["primary"].kill()
    remove_store(registries.directory, "primary.json")
    registries.start_primary()
    with anyio.fail_after(30):
        while "replication_refused" not in registries.log_of("standby"):
            await anyio.lowlevel.checkpoint()
    assert (await reader.lookup(node_id))["hostname"] == "kept"
    registries.processes["standby"].stop()
    promoted = registries.start_primary("standby")
    assert (await registries.client(promoted).lookup(node_id))["hostname"] == "kept"


def remove_store(directory: Path, name: str) -> None:
    for path in directory.glob(f"{name}*"):
        path.unlink()


async def test_a_first_generation_standby_gets_snapshots(registries: Registries) -> None:
    primary = registries.start_primary("primary", "--open-replication")
    client = registries.client(primary)
    node_id = await register(client, "kept")
    with Raw(primary) as standby:
        standby.send({"type": "subscribe_replication"})
        first = standby.receive()
        assert first["type"] == "replication_snapshot"
        assert first["snapshot"]["nodes"][str(node_id)]["hostname"] == "kept"
        assert first["snapshot"]["pub_key_idx"]
        await client.set_hostname("changed")
        second = await anyio.to_thread.run_sync(standby.receive)
        assert second["type"] == "replication_snapshot"
        assert second["snapshot"]["nodes"][str(node_id)]["hostname"] == "changed"
        assert set(second) == {"type", "snapshot"}
    with Raw(primary) as stranger:
        stranger.send({"type": "subscribe_replication", "token": "guessed"})
        assert stranger.receive()["error"] == "invalid replication token"
        assert stranger.is_closed()


async def test_without_a_token_nobody_follows(registries: Registries) -> None:
    lonely = registries.start("lonely")
    closed = registries.start_primary("closed")
    for address, text in ((lonely, "replication not configured"), (closed, "invalid replication")):
        with Raw(address) as standby:
            standby.send({"type": "subscribe_replication"})
            assert standby.receive()["error"].startswith(text)
            assert standby.is_closed()


async def test_a_standby_comes_back_to_what_it_missed(registries: Registries) -> None:
    primary = registries.start_primary()
    standby = registries.start_standby(primary)
    writer, reader = registries.client(primary), registries.client(standby)
    await until_known(reader, await register(writer))
    registries.processes["standby"].kill()
    missed = [await register(registries.client(primary)) for _ in range(50)]
    registries.start_standby(primary)
    for node_id in missed:
        await until_known(reader, node_id)
    # The primary restarts: a new epoch, so the whole state comes again.
    registries.processes["primary"].kill()
    registries.start_primary()
    later = await register(registries.client(primary))
    await until_known(reader, later)


@pytest.mark.parametrize("form", ["one text", "list"])
async def test_a_daemons_file_of_flags_names_several_registries(
    registries: Registries, tmp_path: Path, form: str
) -> None:
    primary = registries.start_primary()
    standby = registries.start_standby(primary)
    listed = [standby, primary]
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"registry": listed if form == "list" else ",".join(listed)}))
    daemon = Process(
        "daemon",
        [
            *("--config", str(config), "--beacon", "", "--listen", "127.0.0.1:0"),
            *("--socket", str(tmp_path / "agent.sock")),
        ],
        tmp_path / "daemon.log",
    )
    try:
        node_id = daemon.ready["node_id"]
        assert (await registries.client(primary).lookup(node_id))["node_id"] == node_id
    finally:
        assert daemon.stop() == 0


async def test_a_running_stream_does_not_notice_the_death_of_the_registry(
    registries: Registries, tmp_path: Path
) -> None:
    primary = registries.start_primary()
    standby = registries.start_standby(primary)
    daemons = {}
    try:
        for name in ("agent-a", "agent-b"):
            daemons[name] = Process(
                "daemon",
                [
                    *("--registry", primary, "--registry", standby, "--beacon", ""),
                    *("--listen", "127.0.0.1:0", "--socket", str(tmp_path / f"{name}.sock")),
                    *("--identity", str(tmp_path / name / "identity.json"), "--hostname", name),
                    *("--public", "--keepalive", "1"),
                ],
                tmp_path / f"{name}.log",
            )
        await until_known(registries.client(standby), daemons["agent-b"].ready["node_id"])
        async with (
            Driver(tmp_path / "agent-a.sock") as client,
            await client.dial("agent-b:7") as stream,
        ):
            await stream.send(b"before")
            assert await stream.receive() == b"before"
            registries.processes["primary"].kill()
            for number in range(200):
                await stream.send(b"%03d" % number)
                assert await stream.receive() == b"%03d" % number
            # Names are still found, by the standby.
            assert (await client.resolve("agent-b")).address
            async with await client.dial("agent-b:7") as second:
                await second.send(b"second")
                assert await second.receive() == b"second"
            registries.processes["standby"].stop()
            registries.start_primary("standby")
            # The daemons find the promoted one: writes go there.
            with anyio.fail_after(30):
                while True:
                    with suppress(PilotError):
                        await client.set_hostname("renamed")
                        break
            await stream.send(b"after")
            assert await stream.receive() == b"after"
        found = await registries.client(standby).resolve_hostname("renamed")
        assert found["node_id"] == daemons["agent-a"].ready["node_id"]
    finally:
        for daemon in daemons.values():
            daemon.kill()
