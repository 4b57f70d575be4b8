"""What existing programs left in the home directory and beside a registry's store, and what becomes
of it (``docs/how-to/migrate.md``). Reads only."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack import _files
from pilotstack._legacy import DAEMON
from pilotstack.daemon import identity as identities
from pilotstack.daemon.flags import FLAGS
from pilotstack.daemon.pid_file import owner
from pilotstack.errors import PilotError
from pilotstack.registry.storage.loader import Loader
from pilotstack.trust.store import TrustStore, path_beside, shared_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Bytes of a settings file, and of a registry's snapshot, that are read.
_MAX_SETTINGS: Final = 1 << 20
_MAX_SNAPSHOT: Final = 1 << 30
#: What programs of the second generation keep besides, which nothing here reads.
_UNUSED: Final = (
    *("account.json", "apps", "motd.json", "feature-flags.json", "update-state.json"),
    *("catalogue-pins.json", "bin", "tasks", "gateway.pid"),
)


class Found(msgspec.Struct, frozen=True):
    """One file of an existing program."""

    what: str
    path: str
    #: What it holds.
    found: str
    #: What a start of our programs does with it.
    becomes: str
    #: It prevents a start, or loses something, until the operator acts.
    is_problem: bool = False


def look(home: Path, store: Path | None = None) -> list[Found]:
    """What there is, in the order in which a daemon would use it.

    Args:
        home: ``~/.pilot``.
        store: a registry's snapshot.
    """
    rows = [*_settings(home), *_identity(home), *_process(home), *_folders(home)]
    if store is not None:
        rows += _store(store)
    return rows


def _settings(home: Path) -> Iterator[Found]:
    path = home / "config.json"
    known = {name for flag in FLAGS for name in flag.names}

    def read() -> Found:
        settings = json.loads(_files.read_regular(path, _MAX_SETTINGS))
        if not isinstance(settings, dict):
            raise ValueError("it is no object")
        keys = sorted(key.replace("_", "-") for key in settings)
        ours = DAEMON.translate_settings(settings)
        idle = ours.pop("without-effect", [])
        assert isinstance(idle, list), "names"
        strange = sorted(key for key in ours if key.replace("_", "-") not in known)
        notes = [f"{key}: no effect, {DAEMON.why(key)}" for key in idle]
        notes += [f"{key}: unknown" for key in strange]
        becomes = "taken: pilot-daemon --config PATH, and by pilotctl"
        if notes:
            becomes += "; but " + "; ".join(notes)
        return Found("settings", str(path), ", ".join(keys) or "empty", becomes, bool(strange))

    yield from _guarded("settings", path, read)


def _identity(home: Path) -> Iterator[Found]:
    paths = [home / name for name in ("identity.json", "identity.key")]
    used = next((path for path in paths if path.exists()), None)
    for path in paths:
        yield from _guarded("identity", path, lambda path=path: _one_identity(path, used))  # type: ignore[misc]
    if used is None:
        return
    own, shared = path_beside(used), shared_beside(used)
    path = own if own.exists() or shared is None else shared

    def trust() -> Found:
        rows = TrustStore(own, is_read_only=True, inherited=shared).load()
        found = f"{len(rows.trusted)} trusted, {len(rows.pending)} pending"
        return Found("trust", str(path), found, f"kept in {own}")

    yield from _guarded("trust", path, trust)


def _one_identity(path: Path, used: Path | None) -> Found:
    key = identities.load(path).public_key
    becomes = "used as it is" if path == used else "not used: identity.json comes first"
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        becomes += "; others can read it, set it to 0600"
    return Found("identity", str(path), f"key {key.hex()[:16]}…", becomes)


def _process(home: Path) -> Iterator[Found]:
    path = home / "pilot.pid"

    def pid() -> Found:
        text = path.read_text()[:32].strip()
        if (ours := owner(path)) is not None:
            return Found("pid file", str(path), f"process {ours}", "our daemon runs")
        if text.isdecimal() and _is_daemon(int(text)):
            return Found(
                "pid file",
                str(path),
                f"process {text}, of another program",
                "stop it first: pilotctl daemon stop of that program",
                is_problem=True,
            )
        return Found("pid file", str(path), "of no running daemon", "replaced at the next start")

    yield from _guarded("pid file", path, pid)
    log = home / "pilot.log"
    if log.exists():
        yield Found("log", str(log), f"{log.stat().st_size} bytes", "appended to")


def _is_daemon(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().strip() in {"pilot-daemon", "daemon", "pilotctl"}
    except OSError:
        return False


def _folders(home: Path) -> Iterator[Found]:
    for name in ("inbox", "received"):
        if (folder := home / name).is_dir():
            count = len(os.listdir(folder))
            yield Found(name, str(folder), f"{count} files", "shown and added to")
    for name in _UNUSED:
        if (path := home / name).exists():
            yield Found("other", str(path), "of an existing program", "not read, and left alone")


def _store(path: Path) -> Iterator[Found]:
    def read() -> Found:
        rows = json.loads(_files.read_regular(path, _MAX_SNAPSHOT))
        if not isinstance(rows, dict):
            raise ValueError("it is no object")
        loader = Loader(rows, 0.0)
        loader.load()
        state = loader.state
        found = f"{len(state.nodes)} nodes, {len(state.networks)} networks"
        return Found("registry", str(path), found, "loaded; written again with a journal beside it")

    yield from _guarded("registry", path, read)
    wal = path.with_name(f"{path.name}.wal")
    if wal.exists() and wal.stat().st_size:
        yield Found(
            "registry journal",
            str(wal),
            f"{wal.stat().st_size} bytes of changes that are not in the snapshot",
            "not read: start and stop the old server once, which folds them in",
            is_problem=True,
        )


def _guarded(what: str, path: Path, read: Callable[[], Found]) -> Iterator[Found]:
    """A row, also if the file cannot be used; none if there is no file."""
    if not os.path.lexists(path):
        return
    try:
        yield read()
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError, PilotError) as error:
        yield Found(what, str(path), f"cannot be used: {error}", "mend it or move it away", True)
