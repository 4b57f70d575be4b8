"""The daemon's socket and pid file, with stale and foreign files in their place."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pilotstack import _paths
from pilotstack.daemon import pid_file
from pilotstack.daemon.ipc_socket import IpcSocket, lock_file
from pilotstack.daemon.pid_file import PidFile
from pilotstack.errors import AlreadyExists, InvalidArgument, PermissionDenied

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_socket_is_private_and_removed_with_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0)
    try:
        with IpcSocket(path):
            assert {mode(file) for file in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with IpcSocket(path), pytest.raises(AlreadyExists, match="already serves"):
        IpcSocket(path)
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(AlreadyExists, match="already serves"):
            IpcSocket(path)


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(AlreadyExists):
        IpcSocket(path)
    assert path.read_text() == "precious"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".s.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument):
        IpcSocket(tmp_path / "s")
    assert not (tmp_path / "elsewhere").exists()


def test_a_replacement_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with IpcSocket(path):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 150)
    directory.mkdir()
    path = directory / "pilot.sock"
    with IpcSocket(path), socket.socket(socket.AF_UNIX) as client:
        _paths.connect(client, path)
    with pytest.raises(InvalidArgument, match="bytes"):
        IpcSocket(directory / ("n" * 200))
    assert list(directory.iterdir()) == []


def test_the_default_place_is_made_and_existing_programs_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PILOT_SOCKET", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PILOT_HOME", str(tmp_path / "h"))
    monkeypatch.setattr(_paths, "COMMON_SOCKET", tmp_path / "common.sock")
    with IpcSocket(None) as ipc:
        assert ipc.path == tmp_path / "h" / ".pilot" / "run" / "pilot.sock"
        assert (mode(ipc.path.parent), mode(ipc.path)) == (0o700, 0o600)
        assert (tmp_path / "common.sock").readlink() == ipc.path
        assert _paths.default_socket() == ipc.path
    assert not (tmp_path / "common.sock").is_symlink()
    # Whoever has the common place keeps it.
    (tmp_path / "common.sock").write_text("another's")
    with IpcSocket(None):
        pass
    assert (tmp_path / "common.sock").read_text() == "another's"


def test_a_default_path_prepared_by_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PILOT_SOCKET", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PILOT_HOME", str(tmp_path))
    (tmp_path / ".pilot").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".pilot" / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionDenied):
        IpcSocket(None)


def test_a_lock_that_was_removed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    first = lock_file(path)
    with pytest.raises(BlockingIOError):
        lock_file(path)
    path.unlink()
    second = lock_file(path)
    os.close(first)
    with pytest.raises(BlockingIOError):
        lock_file(path)
    os.close(second)


@pytest.mark.parametrize(
    "text", ["0\n", "", "garbage", "4194305", pytest.param(str(os.getpid()), id="ours")]
)
def test_an_unlocked_pid_file_is_ignored(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(text)
    assert pid_file.owner(path) is None
    with PidFile(path):
        assert path.read_text() == str(os.getpid())
        assert mode(path) == 0o600
        assert pid_file.owner(path) == os.getpid()
        with pytest.raises(AlreadyExists, match=str(os.getpid())):
            PidFile(path)
    assert not path.exists()
    assert pid_file.owner(path) is None


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = (
        "import sys, time; from pathlib import Path;"
        "from pilotstack.daemon.pid_file import PidFile; "
        "PidFile(Path(sys.argv[1])).__enter__(); print(flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert pid_file.owner(path) == process.pid
        process.kill()
    assert pid_file.owner(path) is None
    with PidFile(path):
        pass


def test_a_pid_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "pid").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument):
        PidFile(tmp_path / "pid")
    assert pid_file.owner(tmp_path / "pid") is None
    assert not (tmp_path / "elsewhere").exists()
