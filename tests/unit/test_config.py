"""Files of settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pilotstack import _config
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

KINDS: dict[str, type] = {
    "hostname": str,
    "public": bool,
    "keepalive": float,
    "registry": list,
    "log_level": str,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


def read(path: Path, value: Any) -> dict[str, Any]:
    path.write_text(json.dumps(value))
    return load(path)


def load(path: Path) -> dict[str, Any]:
    return dict(_config.load(path, "pilot-daemon", KINDS).settings)


def test_keys_are_flags_with_either_dash(path: Path) -> None:
    assert read(path, {"log-level": "debug", "hostname": None}) == {"log_level": "debug"}
    assert read(path, {"log_level": "debug"}) == {"log_level": "debug"}


def test_an_unknown_setting_is_reported_with_the_nearest_name(path: Path) -> None:
    with pytest.raises(InvalidArgument, match="hostnme") as caught:
        read(path, {"hostnme": "typo"})
    assert "'hostname'" in (caught.value.hint or "")
    with pytest.raises(InvalidArgument, match="'zzz'") as caught:
        read(path, {"zzz": 1})
    assert "flags" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hostname", 5),
        ("hostname", ["a"]),
        ("public", "yes"),
        ("public", 1),
        ("keepalive", True),
        ("keepalive", [1]),
        ("registry", 7),
        ("registry", [7]),
        ("registry", {"host": "a"}),
    ],
)
def test_values_of_wrong_types_are_refused(key: str, value: Any, path: Path) -> None:
    with pytest.raises(InvalidArgument, match=key):
        read(path, {key: value})


def test_values_of_existing_files_are_accepted(path: Path) -> None:
    assert read(path, {"public": "true", "keepalive": "5", "registry": "a:1,b:2"}) == {
        "public": "true",
        "keepalive": "5",
        "registry": ["a:1,b:2"],
    }


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 10_000])
def test_text_that_is_no_object_is_refused(text: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(InvalidArgument, match="holds no settings"):
        load(path)


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(path)
    path.mkdir()
    with pytest.raises(InvalidArgument, match=r"cannot read .*: Is a directory"):
        load(path)


def test_a_setting_in_two_spellings_is_refused(path: Path) -> None:
    with pytest.raises(InvalidArgument, match="twice"):
        read(path, {"log-level": "debug", "log_level": "info"})


def test_toml_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('log-level = "debug"\npublic = true\nkeepalive = 5\nregistry = ["a:1"]\n')
    assert load(path) == {
        "log_level": "debug",
        "public": True,
        "keepalive": 5,
        "registry": ["a:1"],
    }
    path.write_text("log-level = debug")
    with pytest.raises(InvalidArgument, match="holds no settings"):
        load(path)


def test_a_section_is_for_one_program_and_comes_before_the_top(path: Path) -> None:
    content = {
        "hostname": "a",
        "pilot-daemon": {"hostname": "b", "public": True},
        "pilot-beacon": {"listen": ":1"},
    }
    assert read(path, content) == {"hostname": "b", "public": True}
    with pytest.raises(InvalidArgument, match="publik"):
        read(path, {"pilot-daemon": {"publik": True}})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILOT_HOME", str(tmp_path))
    directory = tmp_path / ".pilot"
    directory.mkdir()
    return directory


def test_what_others_wrote_into_the_users_file_is_left_out_with_a_warning(home: Path) -> None:
    kinds = KINDS | {"socket": str}
    assert _config.load_user("pilot-daemon", kinds).settings == {}
    text = {"hostname": "a", "hostnme": "b", "log_level": "warn", "socket": "/s"}
    (home / "config.json").write_text(json.dumps(text))
    loaded = _config.load_user("pilot-daemon", kinds)
    assert loaded.settings == {"hostname": "a", "log_level": "warn", "socket": "/s"}
    assert [warning.hint for warning in loaded.warnings] == ["did you mean 'hostname'?"]
    # What stands at the top is the daemon's: of it others take what means the same to them.
    other = _config.load_user("pilot-nameserver", kinds)
    assert (other.settings, other.warnings) == ({"log_level": "warn", "socket": "/s"}, ())
    (home / "config.json").write_text('{"hostname": 1}')
    with pytest.raises(InvalidArgument, match="'hostname' must be a string, not 1"):
        _config.load_user("pilot-daemon", kinds)


def test_secrets_are_not_shown_in_messages(path: Path) -> None:
    path.write_text('{"admin_token": 1234}')
    with pytest.raises(InvalidArgument) as caught:
        _config.load(path, "pilot-daemon", {"admin_token": str})
    assert "1234" not in str(caught.value)
    assert _config.is_secret("admin-token")
    assert not _config.is_secret("admin-token-file")


def test_the_users_file_is_written_at_once_for_this_user_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _config.edit_user({"hostname": "a", "registry": "r:1"})
    assert path == home / "config.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    _config.edit_user({"registry": None, "log_level": "warn"})
    assert json.loads(path.read_text()) == {"hostname": "a", "log_level": "warn"}
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        _config.edit_user({"hostname": "b"})
    assert path.read_bytes() == before
    assert [each.name for each in home.iterdir()] == ["config.json"]


def test_a_toml_file_of_the_user_is_read_and_not_written(home: Path) -> None:
    (home / "config.toml").write_text('socket = "/s"')
    assert _config.text_of("socket") == "/s"
    with pytest.raises(InvalidArgument, match="edited by hand"):
        _config.edit_user({"hostname": "a"})
    (home / "config.json").write_text('{"socket": "/t"}')
    assert _config.text_of("socket") == "/t"


def test_settings_of_existing_daemons_are_taken_where_ours_have_them(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"email": "a@example.com", "keepalive": "60s", "webhook": "x"}))
    kinds: dict[str, type] = {"owner": str, "keepalive": float, "without_effect": list}
    loaded = _config.load(path, "pilot-daemon", kinds)
    assert loaded.settings == {
        "owner": "a@example.com",
        "keepalive": 60.0,
        "without_effect": ["webhook"],
    }
