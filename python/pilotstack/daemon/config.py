"""The daemon's settings, and the file that may hold them."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pilotstack import wellknown
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pilotstack.registry.client import TlsTrust


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """Settings of one daemon. Addresses are ``host:port``; empty means none."""

    #: One address, or several of registries with the same state, separated by commas.
    registry: str
    #: Several are separated by commas, in the order of preference.
    beacon: str
    listen: str
    #: The drivers' socket; at the default place unless given.
    socket: Path | None = None
    #: How the registry is recognized over TLS; plain TCP without.
    registry_trust: TlsTrust | None = None
    #: File of the identity; without one the key lives as long as the process.
    identity: Path | None = None
    hostname: str = ""
    owner: str = ""
    #: The registry's admin token, for drivers that manage networks and give none.
    admin_token: str = ""
    #: Public endpoint, if the operator knows it; that which beacons see does not matter then.
    endpoint: str = ""
    #: No endpoint is registered: peers come through a beacon.
    relay_only: bool = False
    public: bool = False
    has_echo: bool = True
    has_status: bool = True
    #: Serve names on port 53.
    is_nameserver: bool = False
    #: Where names are asked for that the registry does not know; nowhere if empty.
    names: str = "nameserver"
    has_data_exchange: bool = True
    has_event_stream: bool = True
    #: Folder of what peers send; beside the identity, else in the home, unless given.
    files: Path | None = None
    #: GiB that peers may store there; one of them half of it.
    files_quota: float = 64.0
    #: Ask the router to map the tunnel's port, where that is of use.
    may_map_port: bool = True
    #: Congestion controller of streams that ask for none: ``cubic``, ``bbr`` or ``reno``.
    congestion: str = "cubic"
    #: Folder for a record of every connection as qlog.
    qlog: Path | None = None
    #: Seconds between heartbeats.
    keepalive: float = 30.0


#: The value of a key of a settings file.
Setting = str | bool | int | float | list[str]
#: Bytes of a settings file at most.
MAX_FILE = 1 << 20


def read_file(path: Path, kinds: Mapping[str, type]) -> dict[str, Setting]:
    """Reads a settings file: a JSON object whose keys are the daemon's flags, with ``-`` or ``_``.

    Args:
        path: the file.
        kinds: the flags, with ``_``, and whether a value is ``str``, ``bool``, ``float`` or a
            ``list`` of texts.

    Raises:
        InvalidArgument: the file cannot be read, or has an unknown key or a value of the wrong
        type.
    """
    settings: dict[str, Setting] = {}
    for key, value in _object_of(path).items():
        name = key.replace("-", "_")
        if name not in kinds:
            raise _unknown(path, key, kinds)
        if name in settings:
            raise InvalidArgument(f"{path} has {key!r} twice")
        if value is not None:
            settings[name] = _checked(path, key, value, kinds[name])
    return settings


def _object_of(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_FILE), type=dict[str, object])
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {path}: {error.strerror}", hint="check the path after --config"
        ) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(
            f"{path} is not a JSON object of settings: {error}",
            hint='settings look like {"hostname": "agent-a"}',
        ) from error


def names_identity(path: Path) -> bool:
    """Whether a settings file has the key ``identity``.

    Raises:
        InvalidArgument: the file cannot be read.
    """
    return _object_of(path).get("identity") is not None


def _unknown(path: Path, key: str, kinds: Mapping[str, type]) -> InvalidArgument:
    near = difflib.get_close_matches(key.replace("_", "-"), [k.replace("_", "-") for k in kinds], 1)
    hint = f"did you mean {near[0]!r}?" if near else "see: pilot-daemon --help"
    return InvalidArgument(f"{path} has a setting that does not exist: {key!r}", hint=hint)


def _checked(path: Path, key: str, value: object, kind: type) -> Setting:
    """The value, if it has the right type. Numbers and booleans may be strings, as in files of
    existing daemons."""
    match value:
        case bool() if kind is bool:
            return value
        case "true" | "false" if kind is bool:
            return value
        case bool():
            pass
        case int() | float() | str() if kind is float:
            return value
        case str() if kind is str:
            return value
        case str() if kind is list:
            return [value]
        case list() if kind is list and all(isinstance(each, str) for each in value):
            return [str(each) for each in value]
    names = {bool: "true or false", float: "a number", list: "a string or a list of strings"}
    raise InvalidArgument(f"{path}: {key!r} must be {names.get(kind, 'a string')}, not {value!r}")


def files_folder(config: DaemonConfig) -> Path:
    """Folder of what peers send."""
    if config.files is not None:
        return config.files
    beside = config.identity.parent if config.identity is not None else None
    # That of an identity may be read-only.
    return beside if beside is not None and os.access(beside, os.W_OK) else wellknown.home()


def default_identity() -> Path:
    """Default place of the identity of a daemon in the background."""
    return wellknown.home() / "identity.json"
