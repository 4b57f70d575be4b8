"""Start and stop of the daemon: signals, pid file, settings, error reports."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.daemon_log import Log
from tests.support.programs import environment, run, spawn

from pilotstack import sync
from pilotstack.daemon.identity import Identity, encode
from pilotstack.ipc import codes

if TYPE_CHECKING:
    from pilotstack.testing import Network


@pytest.fixture
def env(tmp_path: Path, shared_network: Network) -> dict[str, str]:
    return environment(
        PILOT_HOME=str(tmp_path / "home"),
        PILOT_REGISTRY=shared_network.registry,
        PILOT_BEACON=shared_network.rendezvous.ready["beacon"],
        PILOT_LISTEN="127.0.0.1:0",
    )


def ctl(env: dict[str, str], *arguments: object) -> dict[str, Any]:
    result = run("pilotctl", "--json", *arguments, env=env)
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def _address(listening: socket.socket) -> str:
    return f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_start_that_waits_for_a_registry(
    number: signal.Signals, env: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        env |= {"PILOT_REGISTRY": _address(mute), "PILOT_BEACON": ""}
        process = spawn("pilot-daemon", "--socket", tmp_path / "s", "--beacon", "", env=env)
        with process:
            accepted, _ = mute.accept()
            with accepted:
                assert accepted.recv(1)
                process.send_signal(number)
                _, text = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in text
    assert not (tmp_path / "s").exists()


def test_a_daemon_that_is_not_registered_says_that_it_is_starting(
    env: dict[str, str], tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        env |= {"PILOT_REGISTRY": _address(mute), "PILOT_BEACON": ""}
        with spawn("pilot-daemon", "--socket", path, "--beacon", "", env=env) as process:
            accepted, _ = mute.accept()
            with accepted, socket.socket(socket.AF_UNIX) as driver:
                # As existing programs wait for a daemon: connect, Info.
                driver.connect(path)
                driver.sendall(b"\0\0\0\x01\x0d")
                frame = driver.recv(4096)
            assert frame[4] == codes.ERROR
            assert b"starting" in frame
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def test_an_interrupted_start_leaves_no_registration(env: dict[str, str], tmp_path: Path) -> None:
    """The request was sent, and its answer never came."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as registry:
        env |= {"PILOT_REGISTRY": _address(registry)}
        process = spawn("pilot-daemon", "--socket", tmp_path / "s", "--beacon", "", env=env)
        with process:
            first, _ = registry.accept()
            with first, first.makefile("rb") as reader:
                asked.append(_request(reader)["type"])
                process.send_signal(signal.SIGTERM)
                again, _ = registry.accept()
            with again, again.makefile("rb") as reader:
                asked.append(_request(reader)["type"])
                _reply(again, {"type": "register_ok", "node_id": 7, "address": "0:0000.0000.0007"})
                farewell = _request(reader)
                _reply(again, {"type": "deregister_ok"})
            process.communicate(timeout=20)
    assert asked == ["register", "register"]
    assert (farewell["type"], farewell["node_id"]) == ("deregister", 7)


def _request(reader: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(reader.read(int.from_bytes(reader.read(4))))
    return message


def _reply(connection: socket.socket, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    connection.sendall(len(body).to_bytes(4) + body)


def test_status_and_stop_agree_about_a_daemon_in_the_foreground(env: dict[str, str]) -> None:
    with spawn("pilotctl", "daemon", "start", "--foreground", env=env) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        status = ctl(env, "daemon", "status")["data"]
        assert (status["running"], status["pid"]) == (True, process.pid)
        assert ctl(env, "daemon", "stop")["data"]["pid"] == process.pid
        assert process.wait(20) == 0
    assert not ctl(env, "daemon", "status")["data"]["running"]
    assert ctl(env, "daemon", "stop")["code"] == "not_running"


def test_status_and_stop_agree_about_a_daemon_without_a_pid_file(
    env: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with spawn("pilot-daemon", "--socket", path, env=env) as process:
        assert process.stdout is not None
        process.stdout.readline()
        status = ctl(env, "daemon", "status", "--socket", path)["data"]
        assert (status["running"], status["pid"]) == (True, process.pid)
        assert ctl(env, "daemon", "stop", "--socket", path)["data"]["pid"] == process.pid
        assert process.wait(20) == 0


def test_one_of_several_starts_at_once_wins_and_a_crash_is_no_obstacle(
    env: dict[str, str],
) -> None:
    starts = [spawn("pilotctl", "--json", "daemon", "start", env=env) for _ in range(3)]
    answers = [json.loads(start.communicate(timeout=40)[0].splitlines()[-1]) for start in starts]
    codes = sorted(answer.get("code", "ok") for answer in answers)
    assert codes == ["already_exists", "already_exists", "ok"]
    pid = ctl(env, "daemon", "status")["data"]["pid"]
    assert pid == next(answer["data"]["pid"] for answer in answers if "data" in answer)
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    _until_gone(fd)
    assert not ctl(env, "daemon", "status")["data"]["running"]
    again = ctl(env, "daemon", "start")["data"]["pid"]
    assert ctl(env, "daemon", "stop")["data"]["pid"] == again


def _until_gone(fd: int) -> None:
    assert select.select([fd], [], [], 20)[0]
    os.close(fd)


def test_an_interrupted_start_leaves_no_daemon(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        env |= {"PILOT_REGISTRY": _address(mute)}
        with spawn("pilotctl", "--json", "daemon", "start", "--beacon", "", env=env) as start:
            accepted, _ = mute.accept()
            with accepted:
                assert accepted.recv(1)
                pid = ctl(env, "daemon", "status")["data"]["pid"]
                fd = os.pidfd_open(pid)
                start.send_signal(signal.SIGINT)
                _, text = start.communicate(timeout=20)
    assert "Traceback" not in text
    _until_gone(fd)
    assert not ctl(env, "daemon", "status")["data"]["running"]


def test_a_flag_overrides_the_environment_and_that_the_file(
    env: dict[str, str], tmp_path: Path
) -> None:
    settings = {
        "identity": str(tmp_path / "mine.json"),
        "socket": str(tmp_path / "mine.sock"),
        "hostname": "from-file",
        "owner": "from-file",
        "registry": "127.0.0.1:1",
        "public": True,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    env |= {"PILOT_HOSTNAME": "from-environment", "PILOT_OWNER": "from-environment"}
    started = ctl(
        env,
        *("daemon", "start", "--config", tmp_path / "settings.json", "--hostname", "from-flag"),
    )
    try:
        data = started["data"]
        assert (data["hostname"], data["socket"]) == ("from-flag", str(tmp_path / "mine.sock"))
        assert (tmp_path / "mine.json").exists()
        with sync.Driver(tmp_path / "mine.sock") as driver:
            assert driver.call(0x0D)["owner"] == "from-environment"
    finally:
        ctl(env, "daemon", "stop")


def test_a_typo_in_the_settings_ends_the_start(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"hostnme": "typo"}')
    result = run("pilot-daemon", "--config", tmp_path / "settings.json", env=env)
    report = json.loads(result.stderr.splitlines()[-1])
    assert (result.returncode, report["code"]) == (1, "invalid_argument")
    assert "hostnme" in report["message"]
    assert "'hostname'" in report["hint"]


def test_a_hostname_that_is_taken_is_told_and_a_malformed_one_refused(
    env: dict[str, str],
) -> None:
    started = ctl(env, "daemon", "start", "--hostname", "agent-a")
    assert started["data"]["hostname"] == ""
    assert any("already in use" in warning for warning in started["data"]["warnings"])
    ctl(env, "daemon", "stop")
    refused = ctl(env, "daemon", "start", "--hostname", "Not A Name")
    assert refused["code"] == "invalid_argument"
    assert "lowercase" in refused["message"]


@pytest.mark.parametrize("variable", ["PILOT_KEEPALIVE", "PILOT_PUBLIC", "PILOT_LOG_LEVEL"])
def test_a_start_tells_what_a_setting_of_another_kind_is(
    variable: str, env: dict[str, str]
) -> None:
    refused = ctl(env | {variable: "nonsense"}, "daemon", "start")
    assert refused["code"] == "invalid_argument"
    assert "nonsense" in refused["message"]


def test_a_folder_for_qlog_that_cannot_be_made_ends_the_start(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = run("pilot-daemon", "--qlog", tmp_path / "file" / "qlog", env=env)
    assert result.returncode == 1
    error = json.loads(result.stderr.splitlines()[-1])
    assert (error["code"], error["hint"]) == ("invalid_argument", "name another one with --qlog")


def test_undecodable_settings_end_the_start_without_a_traceback(env: dict[str, str]) -> None:
    result = run("pilot-daemon", "--hostname", "\udcff", env=env)
    assert json.loads(result.stderr)["code"] == "invalid_argument"
    assert result.returncode == 2


def test_a_log_that_is_a_pipe_without_a_reader_is_not_waited_for(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home/.pilot").mkdir(parents=True)
    os.mkfifo(tmp_path / "home/.pilot/pilot.log")
    assert ctl(env, "daemon", "start")["code"] == "invalid_argument"


def test_every_line_is_json_where_that_was_asked(env: dict[str, str], tmp_path: Path) -> None:
    result = run("pilot-daemon", "--log-format", "json", "--no-such-flag", env=env)
    report = json.loads(result.stderr)
    assert (result.returncode, report["code"]) == (2, "invalid_argument")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        result = run(
            "pilot-daemon",
            *("--log-format=json", "--listen", f"127.0.0.1:{port}", "--socket", tmp_path / "s"),
            env=env,
        )
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert (lines[-1]["code"], result.returncode) == ("already_exists", 1)
    assert f"UDP port {port} is in use" in lines[-1]["message"]


@pytest.mark.parametrize("program", ["pilot-registry", "pilot-rendezvous", "pilot-beacon"])
def test_servers_name_a_port_in_use(program: str, tmp_path: Path) -> None:
    kind = socket.SOCK_DGRAM if program == "pilot-beacon" else socket.SOCK_STREAM
    flag = "--listen" if program == "pilot-beacon" else "--registry-addr"
    store = () if program == "pilot-beacon" else ("--store", tmp_path / "registry.json")
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        beacon = ("--beacon-addr", "127.0.0.1:0") if program == "pilot-rendezvous" else ()
        result = run(program, flag, f"127.0.0.1:{port}", *store, *beacon, env=environment())
    assert result.returncode == 1
    assert f"port {port} is in use" in json.loads(result.stderr.splitlines()[-1])["message"]


def test_a_hanging_daemon_is_reported_as_a_timeout(env: dict[str, str], tmp_path: Path) -> None:
    """It is stopped; its socket takes connections all the same."""
    path = tmp_path / "s"
    with spawn("pilot-daemon", "--socket", path, env=env) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        try:
            answer = ctl(env | {"PILOT_SOCKET": str(path)}, "info")
            assert answer["code"] == "timeout"
            status = ctl(env | {"PILOT_SOCKET": str(path)}, "daemon", "status")["data"]
            assert (status["running"], status["responsive"]) == (True, False)
        finally:
            process.send_signal(signal.SIGCONT)
        with sync.Driver(path) as driver:
            assert driver.info().node_id
        process.terminate()
        assert process.wait(20) == 0


def test_the_admin_token_comes_from_a_file(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("the-secret\n")
    (tmp_path / "token").chmod(0o600)
    started = ctl(env, "daemon", "start", "--admin-token-file", tmp_path / "token")
    try:
        command = subprocess.run(
            ["cat", f"/proc/{started['data']['pid']}/cmdline"], capture_output=True, check=True
        )
        assert b"the-secret" not in command.stdout
        with sync.Driver(started["data"]["socket"]) as driver, pytest.raises(PermissionError):
            # Broadcasts need the daemon's token, so it has one.
            driver.call(0x29, (1).to_bytes(2) + (5).to_bytes(2) + (0).to_bytes(2) + b"x")
    finally:
        ctl(env, "daemon", "stop")


def test_the_log_names_the_home_beacon(network: Network) -> None:
    with Log(network.path / "agent.log") as log:
        network.start("agent", "--log-format", "json")
        record = log.wait_for(event="home_beacon_changed")
        assert record["beacon"] == network.rendezvous.ready["beacon"]


def test_flags_and_files_of_an_existing_daemon_start_ours(
    env: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "home" / ".pilot"
    home.mkdir(parents=True)
    identity = Identity(b"\7" * 32)
    (home / "identity.key").write_bytes(encode(identity))
    trusted = {"node_id": 9, "public_key": "", "approved_at": "2026-11-22T21:23:52Z"}
    (home / "trust.json").write_text(json.dumps({"trusted": [trusted]}))
    (home / "config.json").write_text(json.dumps({"keepalive": "60s", "webhook": "http://x"}))
    flags = (
        "-email a@example.com -encrypt=true -transport udp -idle-timeout 120s -public=false "
        "-no-echo -telemetry-url= -motd-interval 15m -wait 30s"
    )
    started = ctl(env, "daemon", "start", *flags.split())
    assert started["status"] == "ok", started
    try:
        with sync.Driver(started["data"]["socket"]) as driver:
            info = driver.call(codes.INFO)
            trust = driver.trusted()
        assert info["email"] == "a@example.com"
        assert info["public_key"] == base64.b64encode(identity.public_key).decode()
        assert [row.node_id for row in trust] == [9]
        # Where existing programs look for it, in their form.
        assert (home / "pilot.pid").read_text() == str(started["data"]["pid"])
        name = Path(f"/proc/{started['data']['pid']}/comm")
        assert not name.exists() or name.read_text() == "pilot-daemon\n"
        log = (home / "pilot.log").read_text()
        for flag in ("transport", "idle-timeout", "motd-interval", "webhook"):
            assert log.count(f"flag=--{flag}") == 1, log
    finally:
        assert ctl(env, "daemon", "stop")["status"] == "ok"
