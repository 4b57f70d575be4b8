"""Files of ``deploy``: they are what their tools accept, and the programs run as they say."""

from __future__ import annotations

import ctypes
import json
import os
import plistlib
import re
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.programs import BIN, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.testing import Network

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("systemd/**/*.service"))
#: prctl(2): no memory that can be written and executed, from Linux 6.3 on; no new privileges.
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
TIMEOUT = 30
ROOT_ONLY = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None,
    reason="namespaces of processes and mounts need root and util-linux",
)


def setting(unit: Path, name: str) -> list[str]:
    """The values of a setting."""
    text = unit.read_text().replace("\\\n", " ")
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.relative_to(DEPLOY)))
def test_systemd_accepts_the_units(unit: Path, tmp_path: Path) -> None:
    for each in unit.parent.glob("*.service"):
        text = each.read_text().replace("/opt/pilot/bin", str(BIN))
        (tmp_path / each.name).write_text(text)
    command = [
        "systemd-analyze",
        "verify",
        "--man=no",
        "--generators=no",
        str(tmp_path / unit.name),
    ]
    if unit.parent.name == "user":
        command.insert(1, "--user")
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)},
    )
    ours = [line for line in result.stderr.splitlines() if unit.name in line]
    assert (result.returncode, ours) == (0, []), result.stderr
    exposed = ["systemd-analyze", "security", "--offline=true", "--threshold=30"]
    if unit.parent.name != "user":
        subprocess.run([*exposed, str(tmp_path / unit.name)], check=True, capture_output=True)


class Service:
    """A program as systemd runs it: arguments, environment, and what it is told."""

    def __init__(self, unit: Path, directory: Path, **more: str) -> None:
        self.places = {"%S": directory / "state", "%t": directory / "run", "%h": directory}
        name = next(iter(setting(unit, "StateDirectory")), "")
        variables = {"HOME": str(directory), "XDG_RUNTIME_DIR": str(self.places["%t"])}
        for place in self.places.values():
            place.mkdir(mode=0o700, exist_ok=True)
        if name:
            del variables["XDG_RUNTIME_DIR"]
            for variable, kind in (("STATE_DIRECTORY", "%S"), ("RUNTIME_DIRECTORY", "%t")):
                variables[variable] = str(self.places[kind] / name)
                (self.places[kind] / name).mkdir(mode=0o700, exist_ok=True)
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(directory / f"notify-{unit.stem}"))
        self._manager.settimeout(TIMEOUT)
        variables["NOTIFY_SOCKET"] = self._manager.getsockname()
        variables["WATCHDOG_USEC"] = "200000"
        (line,) = setting(unit, "ExecStart")
        for specifier, place in self.places.items():
            line = line.replace(specifier, str(place))
        program, *arguments = line.split()
        self.process = subprocess.Popen(
            [BIN / Path(program).name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**variables, **more),
            preexec_fn=_harden,
        )

    def until(self, state: str) -> None:
        """Returns when the manager was told a state."""
        while state not in self._manager.recv(4096).decode().splitlines():
            assert self.process.poll() is None

    def drain(self) -> str:
        """Takes what it was told already, and waits for five times the usual pause."""
        self._manager.settimeout(0.5)
        try:
            for _ in range(100):
                self._manager.recv(4096)
        except TimeoutError:
            return "silent"
        return "alive"

    def stop(self) -> None:
        """Ends it as the manager does."""
        # Who is not read is not waited for: what was told meanwhile may fill the socket.
        self._manager.setblocking(False)
        with suppress(BlockingIOError):
            while self._manager.recv(4096):
                pass
        self._manager.settimeout(TIMEOUT)
        self.process.send_signal(signal.SIGTERM)
        self.until("STOPPING=1")
        _, log = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0, log

    def close(self) -> None:
        self._manager.close()
        self.process.kill()
        self.process.communicate()


def _harden() -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Older kernels refuse, and systemd then filters system calls instead.
    libc.prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)


@contextmanager
def started(unit: str, directory: Path, **more: str) -> Iterator[Service]:
    """A service that serves."""
    service = Service(DEPLOY / "systemd" / unit, directory, **more)
    try:
        service.until("READY=1")
        yield service
    finally:
        service.close()


def here(network: Network, **more: str) -> dict[str, str]:
    """What an administrator writes into daemon.env."""
    beacon = network.rendezvous.ready["beacon"]
    return {"PILOT_REGISTRY": network.registry, "PILOT_BEACON": beacon} | more


def test_daemon_and_gateway_run_as_their_units_say(shared_network: Network, tmp_path: Path) -> None:
    with ExitStack() as stack:
        daemon = stack.enter_context(
            started("pilot-daemon.service", tmp_path, **here(shared_network))
        )
        daemon.until("WATCHDOG=1")
        assert (tmp_path / "state" / "pilot" / "identity.json").exists()
        gateway = stack.enter_context(
            started(
                "pilot-gateway.service",
                tmp_path,
                PILOT_GATEWAY_PROXY="127.0.0.1:0",
                PILOT_GATEWAY_UNPRIVILEGED="true",
            )
        )
        gateway.until("WATCHDOG=1")
        gateway.stop()
        daemon.stop()


def test_a_daemon_of_a_user_is_where_pilotctl_looks(
    shared_network: Network, tmp_path: Path
) -> None:
    with started("user/pilot-daemon.service", tmp_path, **here(shared_network)) as daemon:
        info = subprocess.run(
            [BIN / "pilotctl", "--json", "info"],
            capture_output=True,
            check=True,
            env=environment(HOME=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path / "run")),
        )
        assert json.loads(info.stdout)["data"]["identity"] is True
        assert (tmp_path / ".pilot" / "identity.json").exists()
        daemon.stop()


def test_a_rendezvous_runs_as_its_unit_says(tmp_path: Path) -> None:
    unit = DEPLOY / "systemd" / "pilot-rendezvous.service"
    (tmp_path / "units").mkdir()
    # Ports that nobody has.
    copy = tmp_path / "units" / unit.name
    copy.write_text(re.sub(r" (127\.0\.0\.1)?:\d{4}\b", " 127.0.0.1:0", unit.read_text()))
    with started(str(copy), tmp_path) as service:
        service.until("WATCHDOG=1")
        store = tmp_path / "state" / "pilot-rendezvous"
        assert (store / "registry.json.key.pem").exists()
        service.stop()


def test_a_daemon_whose_loop_hangs_gives_no_sign_of_life(
    shared_network: Network, tmp_path: Path
) -> None:
    with started("pilot-daemon.service", tmp_path, **here(shared_network)) as daemon:
        daemon.until("WATCHDOG=1")
        daemon.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED | os.WNOWAIT)
        assert daemon.drain() == "silent"


def test_the_launchd_file_names_flags_that_exist() -> None:
    with (DEPLOY / "launchd" / "dev.pilot.daemon.plist").open("rb") as file:
        job = plistlib.load(file)
    assert job["Label"] == "dev.pilot.daemon"
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["Umask"] == 0o077
    program, *arguments = job["ProgramArguments"]
    helped = subprocess.run(
        [BIN / Path(program).name, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for flag in arguments[::2]:
        assert f"{flag} " in helped
    for name in job["EnvironmentVariables"]:
        assert name.removeprefix("PILOT_").lower() in helped


def stage(target: str) -> dict[str, Any]:
    """What an image of the Containerfile says of the program in it."""
    text = (DEPLOY / "container" / "Containerfile").read_text().replace("\\\n", " ")
    pattern = r"^FROM \S+ AS (\w+)\n((?:(?!^FROM).*\n?)*)"
    stages = dict(re.findall(pattern, text, re.MULTILINE))
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", stages[target], re.MULTILINE)
    (health,) = re.findall(r"^HEALTHCHECK .*?CMD (.*)$", stages[target], re.MULTILINE)
    variables = dict(
        re.findall(r"\b([A-Z_]+)=(\S+)", re.findall(r"^ENV (.*)$", stages["base"], re.M)[0])
    )
    del variables["PATH"]
    return {"entry": json.loads(entry), "health": json.loads(health), "env": variables}


def contained(entry: list[str]) -> list[str]:
    """Runs a program as a container does: process 1, another user, nothing to write to but its two
    folders, no capability."""
    script = (
        "mount -t tmpfs -o mode=0700,uid=10001,gid=10001 none /mnt"
        " && mkdir -p /var/lib/pilot /run/pilot"
        " && mount -t tmpfs -o mode=0700,uid=10001,gid=10001 none /var/lib/pilot"
        " && mount -t tmpfs -o mode=0700,uid=10001,gid=10001 none /run/pilot"
        " && mount -o remount,bind,ro /"
        " && exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs"
        ' --bounding-set -all "$@"'
    )
    space = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*space, "sh", "-c", script, "sh", str(BIN / entry[0]), *entry[1:]]


@ROOT_ONLY
@pytest.mark.parametrize("target", ["daemon", "rendezvous"])
def test_entry_points_run_as_process_1_without_rights(target: str, shared_network: Network) -> None:
    found = stage(target)
    entry = [*found["entry"]]
    entry += {
        "daemon": ["--listen", "127.0.0.1:0"],
        "rendezvous": [
            *("--registry-addr", "127.0.0.1:0", "--beacon-addr", "127.0.0.1:0"),
            *("--http", "127.0.0.1:0"),
        ],
    }[target]
    variables = environment(**found["env"], **here(shared_network), HOME="/var/lib/pilot")
    process = subprocess.Popen(
        contained(entry), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        ready = json.loads(line)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        enter = ["nsenter", "--target", child, "--mount", "--pid", "setpriv", "--reuid", "10001"]
        health = [str(BIN / found["health"][0]), *found["health"][1:]]
        if target == "rendezvous":
            health[-1] = health[-1].replace("127.0.0.1:9100", ready["http"])
        command = [*enter, "--regid", "10001", "--clear-groups", *health]
        subprocess.run(command, check=True, env=variables, timeout=TIMEOUT)
        os.kill(int(child), signal.SIGTERM)
        _, log = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, log
        assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    finally:
        process.kill()
        process.communicate()


def test_the_compose_file_is_yaml_of_hardened_services() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    compose = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
    assert set(compose["services"]) == {"rendezvous", "agent-a", "agent-b"}
    for name, service in compose["services"].items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert stage(service["build"]["target"])["entry"]
        (volume,) = service["volumes"]
        assert volume.partition(":")[0] in compose["volumes"]
    agent = compose["services"]["agent-a"]
    assert agent["depends_on"] == {"rendezvous": {"condition": "service_healthy"}}
    assert agent["environment"]["PILOT_HOSTNAME"] == "agent-a"
