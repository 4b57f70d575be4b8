"""Default paths, and the owner of a socket."""

from __future__ import annotations

import os
import socket as sockets
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pilotstack import _config, _paths, sync
from pilotstack.client import Driver
from pilotstack.client._framed_link import FramedLink
from pilotstack.errors import InvalidArgument, NotRunning, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kinds = ("STATE", "RUNTIME", "CONFIGURATION")
    directories = [f"{kind}_DIRECTORY" for kind in kinds]
    directories += ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"]
    for name in ("PILOT_SOCKET", "PILOT_HOME", "PILOT_SOCKET_UID", *directories):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_paths, "_temporary", lambda: tmp_path / "tmp" / "pilot-me")
    monkeypatch.setattr(_paths, "COMMON_SOCKET", tmp_path / "tmp" / "pilot.sock")
    (tmp_path / "tmp").mkdir()


def listen(path: Path) -> sockets.socket:
    path.parent.mkdir(exist_ok=True)
    listening = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()
    return listening


def test_home_is_below_the_users_home(tmp_path: Path) -> None:
    assert _paths.home() == tmp_path / ".pilot"


def test_pilot_home_is_used_as_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PILOT_HOME", str(tmp_path / "there"))
    assert _paths.home() == tmp_path / "there" / ".pilot"


def test_without_a_home_there_is_a_private_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert _paths.home() == tmp_path / "tmp" / "pilot-me"
    assert not _paths.is_lasting(_paths.home())
    assert _paths.socket_to_make() == tmp_path / "tmp" / "pilot-me" / "run" / "pilot.sock"


def test_a_temporary_home_that_somebody_else_prepared_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    (tmp_path / "elsewhere").mkdir()
    prepared = tmp_path / "tmp" / "pilot-me"
    prepared.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionDenied):
        _paths.home()
    with pytest.raises(PermissionDenied):
        _paths.make_home()
    assert _paths.default_socket() == prepared / "pilot.sock"
    prepared.unlink()
    prepared.mkdir(mode=0o755)
    assert stat.S_IMODE(_paths.make_home().stat().st_mode) == 0o700


def test_a_home_that_does_not_exist_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    assert _paths.home() == tmp_path / "tmp" / "pilot-me"


@pytest.mark.parametrize(("owner", "mode"), [(NOBODY, 0o700), (0, 0o777)])
def test_a_home_that_others_can_prepare_is_not_used(
    owner: int, mode: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = tmp_path / ".pilot"
    directory.mkdir()
    real = Path.stat

    def fake(path: Path, **options: bool) -> os.stat_result:
        found = real(path, **options)
        if path != directory:
            return found
        return os.stat_result((stat.S_IFDIR | mode, *found[1:4], owner, *found[5:10]))

    monkeypatch.setattr(Path, "stat", fake)
    assert _paths.home() == tmp_path / "tmp" / "pilot-me"


def test_the_runtime_directory_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert _paths.socket_to_make() == tmp_path / ".pilot" / "run" / "pilot.sock"
    (tmp_path / "missing").mkdir()
    assert _paths.socket_to_make() == tmp_path / "missing" / "pilot.sock"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert _paths.socket_to_make() != tmp_path / "missing" / "pilot.sock"


def test_a_service_has_directories_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state, runtime, session = (tmp_path / name for name in ("state", "runtime", "session"))
    for directory in (state, runtime, session):
        directory.mkdir(mode=0o700)
    monkeypatch.setenv("STATE_DIRECTORY", f"{state}:{tmp_path}/other")
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{runtime}:{tmp_path}/other")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    assert _paths.home() == state
    assert _paths.socket_to_make() == runtime / "pilot.sock"
    # Others could put a socket of theirs there.
    for mode in (0o770, 0o702):
        runtime.chmod(mode)
        assert _paths.socket_to_make() == session / "pilot.sock"
    session.chmod(0o777)
    assert _paths.socket_to_make() == state / "run" / "pilot.sock"


@pytest.mark.parametrize("variable", ["STATE_DIRECTORY", "XDG_STATE_HOME"])
def test_what_is_in_the_users_home_already_stays_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    expected = tmp_path if variable == "STATE_DIRECTORY" else tmp_path / "pilot"
    assert _paths.home() == expected
    (tmp_path / ".pilot").mkdir()
    assert _paths.home() == tmp_path / ".pilot"


def test_settings_are_also_where_systemd_and_xdg_have_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service, base = tmp_path / "etc", tmp_path / "config"
    for directory in (service, base / "pilot", tmp_path / ".pilot"):
        directory.mkdir(parents=True)
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", f"{service}:/elsewhere")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(base))
    assert _config.user_file() == tmp_path / ".pilot" / "config.json"
    for place in (base / "pilot" / "config.toml", service / "config.json"):
        place.touch()
        assert _config.user_file() == place
    (tmp_path / ".pilot" / "config.toml").touch()
    assert _config.user_file() == tmp_path / ".pilot" / "config.toml"


def test_directories_that_are_no_paths_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("STATE_DIRECTORY", "XDG_STATE_HOME", "RUNTIME_DIRECTORY"):
        monkeypatch.setenv(variable, "relative")
    assert _paths.home() == tmp_path / ".pilot"
    assert _paths.socket_to_make() == tmp_path / ".pilot" / "run" / "pilot.sock"


def test_programs_find_the_socket_that_is_there(tmp_path: Path) -> None:
    assert _paths.default_socket() == tmp_path / ".pilot" / "run" / "pilot.sock"
    with listen(_paths.COMMON_SOCKET):
        assert _paths.default_socket() == _paths.COMMON_SOCKET
        (tmp_path / ".pilot").mkdir()
        with listen(tmp_path / ".pilot" / "run" / "pilot.sock"):
            assert _paths.default_socket() == tmp_path / ".pilot" / "run" / "pilot.sock"


def test_a_common_socket_of_others_is_not_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with listen(_paths.COMMON_SOCKET):
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert _paths.default_socket() != _paths.COMMON_SOCKET
    assert tmp_path.exists()


def test_directories_are_private_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        _paths.make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_an_open_directory_of_ours_is_closed_and_a_link_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    _paths.make_private(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(PermissionDenied):
        _paths.make_private(tmp_path / "link")


def test_a_long_path_is_reached_by_way_of_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    path = directory / "pilot.sock"
    with (
        closing(sockets.socket(sockets.AF_UNIX)) as listening,
        closing(sockets.socket(sockets.AF_UNIX)) as socket,
    ):
        with _paths.socket_address(path) as address:
            listening.bind(address)
        listening.listen()
        _paths.connect(socket, path)
        assert _paths.peer(socket) == (os.getpid(), os.geteuid())
    with pytest.raises(InvalidArgument), _paths.socket_address(directory / ("n" * 120)):
        pass


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Path]:
    """A socket that another user serves; it tells what it is sent."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    path = tmp_path / "open" / "pilot.sock"
    path.parent.mkdir(mode=0o777)
    system = Path(tempfile.gettempdir()).resolve()
    for directory in (tmp_path, *tmp_path.parents):
        if directory == system:
            break
        directory.chmod(0o755)
    path.parent.chmod(0o777)
    code = (
        f"import os, socket; os.umask(0); os.setuid({NOBODY}); s = socket.socket(socket.AF_UNIX);"
        f"s.bind({str(path)!r}); os.chmod({str(path)!r}, 0o666); s.listen(); print(flush=True)\n"
        "c = s.accept()[0]; c.settimeout(9); print(c.recv(100), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield path
        assert process.stdout.readline() == b"b''\n", "something was sent"
        process.kill()


def test_nothing_is_sent_to_another_users_socket(impostor: Path) -> None:
    with pytest.raises(PermissionDenied, match="another user"):
        sync.Driver(impostor)


@pytest.mark.anyio
async def test_nothing_is_sent_by_the_asynchronous_driver(impostor: Path) -> None:
    with pytest.raises(PermissionDenied, match="another user"):
        async with Driver(impostor):
            pass


@pytest.mark.anyio
async def test_nothing_is_sent_as_frames(impostor: Path) -> None:
    with pytest.raises(PermissionDenied, match="another user"):
        await FramedLink.open(impostor)


def test_another_user_can_be_trusted(impostor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SOCKET_UID", str(NOBODY))
    with closing(sockets.socket(sockets.AF_UNIX)) as socket:
        _paths.connect(socket, impostor)
        assert socket.getpeername() == str(impostor)


def test_a_socket_that_nobody_serves_is_a_daemon_not_running(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        sync.Driver(tmp_path / "none.sock")
