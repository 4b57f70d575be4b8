"""Flags over environment over the file of --config over the user's file over defaults, for every
program; and what pilotctl does with the user's file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot
from tests.support.pilotctl import Pilotctl

from pilotstack import _config
from pilotstack.beacon.main import Options as BeaconFlags
from pilotstack.daemon.config import DaemonConfig

BIN = Path(sys.executable).parent
#: A setting of each program, and the variable that has it; the registry's is the rendezvous's.
PROGRAMS = {
    "pilot-daemon": ((), "log-level", "PILOT_LOG_LEVEL"),
    "pilot-rendezvous": ((), "log-level", "PILOT_RENDEZVOUS_LOG_LEVEL"),
    "pilot-registry": ((), "log-level", "PILOT_RENDEZVOUS_LOG_LEVEL"),
    "pilot-beacon": ((), "log-level", "PILOT_BEACON_LOG_LEVEL"),
    "pilot-nameserver": ((), "log-level", "PILOT_NAMESERVER_LOG_LEVEL"),
    "pilot-gateway": (("run",), "log-level", "PILOT_GATEWAY_LOG_LEVEL"),
    "pilotstack-serve": (("app:app",), "log-level", "PILOT_SERVE_LOG_LEVEL"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / ".pilot"
    directory.mkdir()
    return directory


@pytest.fixture
def ctl(tmp_path: Path) -> Pilotctl:
    """Commands of somebody with a home of his own and no daemon."""
    return Pilotctl({"PILOT_HOME": str(tmp_path)}, ((str(tmp_path), "[home]"),))


def explained(program: str, home: Path, *flags: str, **variables: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    result = subprocess.run(
        [BIN / program, *PROGRAMS[program][0], "--explain-config", *flags],
        capture_output=True,
        text=True,
        check=True,
        env=kept | {"PILOT_HOME": str(home.parent)} | variables,
    )
    report = json.loads(result.stdout)
    assert report["program"] == program
    return {row["name"]: row for row in report["settings"]}


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_source_of_a_setting_comes_before_the_next_one(
    program: str, home: Path, tmp_path: Path
) -> None:
    _, name, variable = PROGRAMS[program]
    at = {"name": name}
    assert explained(program, home)[name] == at | {"value": "info", "origin": "default"}
    user = home / "config.toml"
    user.write_text(f'["{program}"]\nlog-level = "debug"\n')
    from_user = at | {"value": "debug", "origin": "user file", "source": str(user)}
    assert explained(program, home)[name] == from_user
    # The same as JSON, whose keys have hyphens or underscores.
    named = tmp_path / "named.json"
    named.write_text('{"log_level": "error"}')
    flags = ["--config", str(named)]
    from_file = at | {"value": "error", "origin": "config file", "source": str(named)}
    assert explained(program, home, *flags)[name] == from_file
    changed = {variable: "info"}
    from_environment = at | {"value": "info", "origin": "environment", "source": variable}
    assert explained(program, home, *flags, **changed)[name] == from_environment
    flags += ["--log-level", "debug"]
    from_flag = at | {"value": "debug", "origin": "flag", "source": "--log-level"}
    assert explained(program, home, *flags, **changed)[name] == from_flag


@pytest.mark.parametrize("program", PROGRAMS)
def test_mistakes_in_a_file_end_a_program_with_the_key_and_a_hint(
    program: str, home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "named.json"
    for text, message, hint in (
        ('{"log_levl": "debug"}', "'log_levl'", "did you mean 'log-level'?"),
        ('{"log_level": 5}', "'log_level' must be a string, not 5", None),
        ('{"log_level": "loud"}', "'log-level': 'loud' is not one of", None),
        ("{", "holds no settings", 'settings look like {"hostname": "agent-a"}'),
    ):
        path.write_text(text)
        result = subprocess.run(
            [BIN / program, *PROGRAMS[program][0], "--config", path],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PILOT_HOME": str(home.parent)},
        )
        report = json.loads(result.stderr)
        assert result.returncode in {1, 2}
        assert report["code"] == "invalid_argument"
        assert message in report["message"]
        assert str(path) in report["message"]
        assert report.get("hint") == hint


def test_every_program_is_tested_here() -> None:
    assert {"pilotctl", *PROGRAMS} == set(_config.PROGRAMS)


def test_secrets_come_from_files_and_are_never_shown(home: Path, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("geheim\n")
    for program, name in (("pilot-registry", "replication-token"), ("pilot-daemon", "admin-token")):
        flags = [f"--{name}-file", str(secret)]
        rows = explained(program, home, *flags, PILOT_ADMIN_TOKEN="geheim")
        assert "geheim" not in json.dumps(rows)
        assert rows[f"{name}-file"]["value"] == str(secret)
    shown = explained("pilot-daemon", home, PILOT_ADMIN_TOKEN="geheim")["admin-token"]
    assert (shown["value"], shown["origin"]) == ("(secret)", "environment")


def test_secrets_are_in_no_representation() -> None:
    daemon = DaemonConfig(registry="", beacon="", listen="", admin_token="geheim")
    assert "geheim" not in repr(daemon)
    assert not BeaconFlags.__dataclass_fields__["admin_token"].repr


def test_init_writes_a_file_that_only_this_user_reads(ctl: Pilotctl, home: Path) -> None:
    assert ctl("init", "--registry", "registry.example:9000", "--hostname", "my-agent") == snapshot(
        '{"data": {"beacon": "registry.example:9001", "config_path": "[home]/.pilot/config.json", "hostname": "my-agent", "registry": "registry.example:9000", "socket": "[home]/.pilot/run/pilot.sock"}, "status": "ok"}\n'
    )
    path = home / "config.json"
    assert path.stat().st_mode & 0o777 == 0o600
    # What is there is kept.
    assert ctl.table("init", "--socket", "/run/other.sock") == snapshot(
        "wrote [home]/.pilot/config.json\n"
    )
    assert json.loads(path.read_text()) == snapshot(
        {
            "beacon": "registry.example:9001",
            "hostname": "my-agent",
            "registry": "registry.example:9000",
            "socket": "/run/other.sock",
        }
    )


def test_config_shows_and_changes_the_file(ctl: Pilotctl, home: Path) -> None:
    assert ctl("config") == snapshot(
        '{"data": {"config_path": "[home]/.pilot/config.json", "log_file": "[home]/.pilot/pilot.log", "pid_file": "[home]/.pilot/pilot.pid"}, "status": "ok"}\n'
    )
    assert ctl("config", "--set", "hostname=h2") == snapshot(
        '{"data": {"key": "hostname", "value": "h2"}, "status": "ok"}\n'
    )
    assert ctl("config", "--set", "keepalive=20") == snapshot(
        '{"data": {"key": "keepalive", "value": 20.0}, "status": "ok"}\n'
    )
    assert ctl("config", "--set", "no-echo=true") == snapshot(
        '{"data": {"key": "no-echo", "value": true}, "status": "ok"}\n'
    )
    assert ctl("config", "--set", "hostname=") == snapshot(
        '{"data": {"key": "hostname", "value": ""}, "status": "ok"}\n'
    )
    assert ctl("config", "--set", "noequals") == snapshot("""\
{"code": "invalid_argument", "hint": "pilotctl config --set hostname=my-agent", "message": "not KEY=VALUE: 'noequals'", "status": "error"}
--- exit 2 ---
""")
    assert ctl("config", "--set", "hostnme=h3") == snapshot("""\
{"code": "invalid_argument", "hint": "did you mean 'hostname'?", "message": "there is no setting 'hostnme'", "status": "error"}
--- exit 2 ---
""")
    assert ctl("config", "--set", "keepalive=often") == snapshot("""\
{"code": "invalid_argument", "message": "keepalive: 'often' is not a valid float range", "status": "error"}
--- exit 2 ---
""")
    assert ctl("config", "--set", "congestion=none") == snapshot("""\
{"code": "invalid_argument", "message": "congestion: 'none' is not one of 'reno', 'cubic', 'bbr'", "status": "error"}
--- exit 2 ---
""")
    assert ctl("config", "--set", "admin-token=geheim") == snapshot("""\
{"code": "invalid_argument", "hint": "name a file with it: pilotctl config --set admin-token-file=PATH, or edit [home]/.pilot/config.json", "message": "others can see 'admin-token' on a command line", "status": "error"}
--- exit 2 ---
""")
    path = home / "config.json"
    path.write_text('{"admin_token": "geheim", "pilot-registry": {"replication-token": "geheim"}}')
    # Paths of tests are longer than a terminal is wide.
    wide = ctl.with_environment(COLUMNS="300")
    assert wide.table("config") == snapshot("""\
admin_token  (secret)
config_path  [home]/.pilot/config.json
pid_file     [home]/.pilot/pilot.pid
log_file     [home]/.pilot/pilot.log
""")
    assert "geheim" not in ctl("config")


def test_pilotctl_takes_socket_and_registry_from_files(ctl: Pilotctl, home: Path) -> None:
    (home / "config.json").write_text('{"socket": "/nowhere/user.sock", "registry": "127.0.0.1:1"}')
    assert "/nowhere/user.sock" in ctl("info")
    assert "/nowhere/user.sock" in ctl("find", "agent-b")
    assert "127.0.0.1:1" in ctl("lookup", 1)
    named = home / "named.toml"
    named.write_text('socket = "/nowhere/named.sock"\nregistry = ["127.0.0.1:2"]\nhostname = "a"\n')
    for form in (("--config", named, "info"), ("info", "--config", named)):
        assert "/nowhere/named.sock" in ctl(*form)
    assert "127.0.0.1:2" in ctl("lookup", 1, "--config", named)
    changed = ctl.with_environment(PILOT_CONFIG=str(named))
    assert "/nowhere/named.sock" in changed("info")
    changed = changed.with_environment(
        PILOT_SOCKET="/nowhere/env.sock", PILOT_REGISTRY="127.0.0.1:3"
    )
    assert "/nowhere/env.sock" in changed("info")
    assert "127.0.0.1:3" in changed("lookup", 1)
    assert "/nowhere/flag.sock" in changed("info", "--socket", "/nowhere/flag.sock")
    assert "127.0.0.1:4" in changed("lookup", 1, "--registry", "127.0.0.1:4")
    explained = changed.table("config", "explain")
    assert explained == snapshot("""\
settings of pilotctl
┏━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━┓
┃ setting              ┃ value             ┃ from        ┃ which          ┃
┡━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━┩
│ socket               │ /nowhere/env.sock │ environment │ PILOT_SOCKET   │
│ registry             │ 127.0.0.1:3       │ environment │ PILOT_REGISTRY │
│ registry-tls         │ false             │ default     │                │
│ registry-trust       │ pinned            │ default     │                │
│ registry-fingerprint │                   │ default     │                │
│ beacon               │                   │ default     │                │
│ names                │                   │ default     │                │
│ admin-token          │                   │ default     │                │
│ recovery-secret      │                   │ default     │                │
└──────────────────────┴───────────────────┴─────────────┴────────────────┘
""")
    named.write_text("sokcet = 5")
    assert ctl("lookup", 1, "--config", named) == snapshot("""\
{"code": "invalid_argument", "hint": "did you mean 'socket'?", "message": "[home]/.pilot/named.toml has a setting that does not exist: 'sokcet'", "status": "error"}
--- exit 2 ---
""")
    (home / "config.json").write_text("{")
    assert ctl("info") == snapshot("""\
{"code": "invalid_argument", "hint": "settings look like {\\"hostname\\": \\"agent-a\\"}", "message": "[home]/.pilot/config.json holds no settings: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", "status": "error"}
--- exit 2 ---
""")


def test_config_explains_other_programs(ctl: Pilotctl, home: Path) -> None:
    (home / "config.json").write_text('{"hostname": "agent-a", "pilot-beacon": {"http": ":0"}}')
    told = json.loads(ctl.run("config", "explain", "--program", "pilot-beacon").stdout)["data"]
    rows = {row["name"]: row for row in told["settings"]}
    assert (rows["http"]["value"], rows["http"]["origin"]) == (":0", "user file")
    assert told["program"] == "pilot-beacon"
    (home / "config.json").write_text('{"hostname": 5}')
    assert ctl("config", "explain", "--program", "pilot-daemon") == snapshot("""\
{"code": "invalid_argument", "message": "[home]/.pilot/config.json: 'hostname' must be a string, not 5", "status": "error"}
--- exit 2 ---
""")
