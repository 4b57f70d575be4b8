"""Files of settings, JSON or TOML, that programs of this package share.

A file is an object whose keys are the flags of a program without their dashes, with ``-`` or ``_``.
An object under the name of a program, such as ``pilot-beacon``, holds what is for it alone. Flags
of the command line are in :mod:`pilotstack._settings`; this module knows no parser, because
commands that need none ask it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pilotstack import _files, _paths
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The value of a setting.
Setting = str | bool | int | float | list[str]
#: Bytes of a file at most.
MAX_FILE: Final = 1 << 20
PROGRAMS: Final = (
    *("pilotctl", "pilot-daemon", "pilot-rendezvous", "pilot-registry", "pilot-beacon"),
    *("pilot-nameserver", "pilot-gateway", "pilotstack-serve"),
)
#: Programs whose settings stand at the top of the user's file, as existing ones have it.
_AT_THE_TOP: Final = ("pilotctl", "pilot-daemon")
#: What others take from there, too.
_SHARED: Final = {"socket", "log_level", "log_format"}
_NAMES: Final = {bool: "true or false", int: "a whole number", float: "a number"}
_NEAR: Final = 0.6


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings of a program in one file, by the names of its flags with ``_``."""

    path: Path
    settings: dict[str, Setting] = field(default_factory=dict)
    #: What is wrong with keys that were left out.
    warnings: tuple[InvalidArgument, ...] = ()


def is_secret(name: str) -> bool:
    """Whether a setting must not be shown."""
    return name.replace("-", "_").endswith(("token", "secret", "password"))


def user_file() -> Path:
    """The user's file of settings: the first that is there of ``config.json`` and ``config.toml``
    in the home, in the configuration directory of systemd, and in that of XDG."""
    home = _paths.home()
    for folder in (home, *_paths.configuration_directories()):
        for name in ("config.json", "config.toml"):
            if (folder / name).exists():
                return folder / name
    return home / "config.json"


def read_object(path: Path) -> dict[str, object]:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        InvalidArgument: it cannot be read, or is no object.
    """
    hint = 'settings look like {"hostname": "agent-a"}'
    try:
        data = _files.read_regular(path, MAX_FILE)
        if path.suffix == ".toml":
            import tomllib

            hint = 'settings look like hostname = "agent-a"'
            return tomllib.loads(data.decode())
        found = json.loads(data)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {path}: {error.strerror}", hint="check the path and who may read it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path} holds no settings: {error}", hint=hint) from error
    if not isinstance(found, dict):
        raise InvalidArgument(f"{path} holds no settings: it is no object", hint=hint)
    return found


def load(path: Path, program: str, kinds: Mapping[str, type]) -> Loaded:
    """The settings of a program in a file that was named.

    Args:
        path: the file.
        program: one of :data:`PROGRAMS`.
        kinds: its flags, with ``_``, and whether a value is ``str``, ``bool``, ``int``, ``float``
            or a ``list`` of texts.

    Raises:
        FileNotFoundError: there is none.
        InvalidArgument: the file cannot be read, or has an unknown key or a value of the wrong
            type.
    """
    loaded = _load(path, program, kinds, set(kinds))
    for warning in loaded.warnings:
        raise warning
    return loaded


def load_user(program: str, kinds: Mapping[str, type]) -> Loaded:
    """The settings of a program in the user's file, which may be missing. Unknown keys are left
    out, because others than this version may have written them; the result names them.

    Raises:
        InvalidArgument: the file cannot be read, or a value has the wrong type.
    """
    path = user_file()
    is_at_the_top = program in _AT_THE_TOP
    try:
        return _load(path, program, kinds, set(kinds) if is_at_the_top else _SHARED & set(kinds))
    except FileNotFoundError:
        return Loaded(path)


def text_of(name: str, path: Path | None = None) -> str:
    """A text that stands at the top of a file; that of the user unless given. Empty if it has none.

    Raises:
        InvalidArgument: the file cannot be read, or holds something else.
    """
    chosen = path or user_file()
    try:
        found = read_object(chosen).get(name)
    except FileNotFoundError as error:
        if path is None:
            return ""
        raise InvalidArgument(
            f"cannot read {path}: {error.strerror}", hint="check the path after --config"
        ) from error
    return "" if found is None else str(checked(chosen, name, found, str))


def _load(path: Path, program: str, kinds: Mapping[str, type], at_the_top: set[str]) -> Loaded:
    content = read_object(path)
    if program != "pilotctl":
        from pilotstack import _legacy

        if (flags := _legacy.PROGRAMS.get(program)) is not None:
            content = flags.translate_settings(content)
    settings: dict[str, Setting] = {}
    warnings = []
    ours: dict[str, object] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if key.replace("_", "-") in PROGRAMS and isinstance(value, dict):
            ours = value if key.replace("_", "-") == program else ours
        elif name in at_the_top:
            _put(settings, path, key, value, kinds)
        elif at_the_top == set(kinds):
            warnings.append(unknown(path, key, kinds))
    special: dict[str, Setting] = {}
    for key, value in ours.items():
        if key.replace("-", "_") in kinds:
            _put(special, path, key, value, kinds)
        else:
            warnings.append(unknown(path, key, kinds))
    return Loaded(path, settings | special, tuple(warnings))


def _put(
    settings: dict[str, Setting], path: Path, key: str, value: object, kinds: Mapping[str, type]
) -> None:
    name = key.replace("-", "_")
    if name in settings:
        raise InvalidArgument(f"{path} has {key!r} twice")
    if value is not None:
        settings[name] = checked(path, key, value, kinds[name])


def unknown(path: Path, key: str, kinds: Mapping[str, type]) -> InvalidArgument:
    """The error for a key that no flag has, with the most similar one as its hint."""
    import difflib

    names = [name.replace("_", "-") for name in kinds]
    near = difflib.get_close_matches(key.replace("_", "-"), names, 1, _NEAR)
    hint = f"did you mean {near[0]!r}?" if near else "settings are flags without their dashes"
    return InvalidArgument(f"{path} has a setting that does not exist: {key!r}", hint=hint)


def checked(path: Path, key: str, value: object, kind: type) -> Setting:
    """The value, if it has the right type. Numbers and booleans may be strings, as in files of
    existing daemons.

    Raises:
        InvalidArgument: it has another.
    """
    match value:
        case bool() if kind is bool:
            return value
        case "true" | "false" if kind is bool:
            return value
        case bool():
            pass
        case int() | str() if kind is int:
            return value
        case int() | float() | str() if kind is float:
            return value
        case str() if kind is str:
            return value
        case str() if kind is list:
            return [value]
        case list() if kind is list and all(isinstance(each, str) for each in value):
            return [str(each) for each in value]
    wanted = {**_NAMES, list: "a string or a list of strings"}.get(kind, "a string")
    shown = "another value" if is_secret(key) else repr(value)
    raise InvalidArgument(f"{path}: {key!r} must be {wanted}, not {shown}")


def write_user(content: Mapping[str, object]) -> Path:
    """Replaces the user's file, at once or not at all; nobody else may read it.

    Raises:
        InvalidArgument: the user's file is TOML, which is not written here.
        OSError: it cannot be written; the old one is unchanged.
    """
    path = user_file()
    if path.suffix == ".toml":
        raise InvalidArgument(
            f"{path} is edited by hand", hint="or remove it, and config.json is used instead"
        )
    _paths.make_home()
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    _files.replace(path, [text.encode()])
    return path


def edit_user(changes: Mapping[str, Setting | None]) -> Path:
    """Sets keys of the user's file, or removes those that are ``None``; others are kept.

    Raises:
        InvalidArgument: the file is malformed, or TOML.
        OSError: it cannot be written; the old one is unchanged.
    """
    try:
        content = read_object(user_file())
    except FileNotFoundError:
        content = {}
    for name, value in changes.items():
        for key in [key for key in content if key.replace("-", "_") == name]:
            del content[key]
        if value is not None:
            content[name] = value
    return write_user(content)


def is_named(name: str, path: Path | None) -> bool:
    """Whether the daemon's settings in a file, or in that of the user, have a key.

    Raises:
        InvalidArgument: a file cannot be read.
    """
    for each in (path, user_file()):
        if each is None:
            continue
        try:
            content = read_object(each)
        except FileNotFoundError:
            continue
        section = content.get("pilot-daemon")
        inside = section if isinstance(section, dict) else {}
        if content.get(name) is not None or inside.get(name) is not None:
            return True
    return False


def environment_file(variable: str = "PILOT_CONFIG") -> Path | None:
    """The file that the environment names."""
    from pathlib import Path

    named = os.environ.get(variable)
    return Path(named) if named else None
