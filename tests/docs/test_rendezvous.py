"""The page for operators names only flags that exist, and its backup restores."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from tests.support.registries import Registries

from pilotstack.errors import ConnectionFailed
from pilotstack.registry.client import TlsTrust

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "rendezvous.md").read_text()
ENTRIES = {
    "pilot-rendezvous": "from pilotstack.registry.main import run_rendezvous as run; run()",
    "pilot-daemon": "from pilotstack.daemon.main import run; run()",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def flags_of(command: str) -> set[str]:
    helped = subprocess.run(
        [sys.executable, "-c", ENTRIES[command], "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200"},
    )
    return set(re.findall(r"--[a-z-]+", helped.stdout))


def test_the_commands_have_only_flags_that_exist() -> None:
    known = {command: flags_of(command) for command in ENTRIES}
    used = re.findall(r"(pilot-[a-z]+) ((?:[^\n]*\\\n)*[^\n]*)", PAGE)
    checked = 0
    for command, rest in used:
        if command in known:
            for flag in re.findall(r"--[a-z-]+", rest):
                assert flag in known[command], f"{command} {flag}"
                checked += 1
    assert checked > 15
    every = known["pilot-rendezvous"] | known["pilot-daemon"]
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= every


def copy(pattern: str, source: Path, target: Path) -> None:
    for path in source.glob(pattern):
        shutil.copy(path, target)


@pytest.mark.anyio
async def test_a_backup_that_is_taken_under_load_restores(
    registries: Registries, tmp_path: Path
) -> None:
    address = registries.start("registry", "--tls")
    pin = registries.processes["registry"].ready["tls_fingerprint"]
    known: list[int] = []

    async def write() -> None:
        while True:
            client = registries.client(address, trust=TlsTrust((pin,)))
            known.append((await client.register("127.0.0.1:4000")).node_id)
            await client.aclose()

    backup = tmp_path / "backup"
    backup.mkdir()
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(write)
        while len(known) < 100:
            await anyio.lowlevel.checkpoint()
        before = list(known)
        for pattern in ("registry.json.*", "registry.json"):
            copy(pattern, tmp_path, backup)
            while len(known) < len(before) + 50:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    registries.processes["registry"].kill()
    with Registries(backup) as restored:
        address = restored.start("registry", "--tls")
        assert restored.processes["registry"].ready["tls_fingerprint"] == pin
        client = restored.client(address, trust=TlsTrust((pin,)))
        for node_id in before:
            assert (await client.lookup(node_id))["node_id"] == node_id
        await restored.aclose()


@pytest.mark.anyio
async def test_a_damaged_backup_is_refused(registries: Registries, tmp_path: Path) -> None:
    address = registries.start("registry")
    await registries.client(address).register("127.0.0.1:4000")
    assert registries.processes["registry"].stop() == 0
    store = tmp_path / "registry.json"
    damaged = store.read_bytes().replace(b'"backbone"', b'"backbonf"')
    store.write_bytes(damaged)
    with pytest.raises(ConnectionFailed, match="corrupt"):
        registries.start("registry")
    assert store.read_bytes() == damaged
