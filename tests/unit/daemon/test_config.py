"""Settings files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pilotstack.daemon.config import read_file
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
    return read_file(path, KINDS)


def test_keys_are_flags_with_either_dash(path: Path) -> None:
    assert read(path, {"log-level": "debug", "hostname": None}) == {"log_level": "debug"}
    assert read(path, {"log_level": "debug"}) == {"log_level": "debug"}


def test_an_unknown_setting_is_reported_with_the_nearest_name(path: Path) -> None:
    with pytest.raises(InvalidArgument, match="hostnme") as caught:
        read(path, {"hostnme": "typo"})
    assert "'hostname'" in (caught.value.hint or "")
    with pytest.raises(InvalidArgument, match="'zzz'") as caught:
        read(path, {"zzz": 1})
    assert "--help" in (caught.value.hint or "")


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
    with pytest.raises(InvalidArgument, match="not a JSON object"):
        read_file(path, KINDS)


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot read"):
        read_file(path, KINDS)


def test_a_setting_in_two_spellings_is_refused(path: Path) -> None:
    with pytest.raises(InvalidArgument, match="twice"):
        read(path, {"log-level": "debug", "log_level": "info"})
