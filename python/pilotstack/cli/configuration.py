"""``pilotctl init`` and ``pilotctl config``: the user's file of settings, and where each setting of
a program comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from pilotstack import _commands, _config, _settings, wellknown
from pilotstack._flags import REGISTRY_FLAGS
from pilotstack.cli.context import Group, global_options, reported, setting_files
from pilotstack.daemon import lifecycle
from pilotstack.daemon.flags import FLAGS
from pilotstack.errors import InternalError, InvalidArgument, from_code

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings
    from pilotstack.cli.text import Data

_COLUMNS: Final = {"name": "setting", "value": "value", "origin": "from", "source": "which"}
#: How each program is started, and the arguments that it cannot do without.
_ENTRIES: Final[dict[str, tuple[str, ...]]] = {
    "pilot-daemon": ("pilot_daemon",),
    "pilot-rendezvous": ("pilot_rendezvous",),
    "pilot-registry": ("pilot_registry",),
    "pilot-beacon": ("pilot_beacon",),
    "pilot-nameserver": ("pilot_nameserver",),
    "pilot-gateway": ("pilot_gateway", "run"),
    "pilotstack-serve": ("pilotstack_serve", "APP"),
}
#: What pilotctl takes from files, for an explanation.
_OWN: Final[tuple[Any, ...]] = (
    click.option("--socket", envvar="PILOT_SOCKET"),
    *(flag.option() for flag in REGISTRY_FLAGS),
    click.option("--beacon", multiple=True, envvar="PILOT_BEACON"),
    click.option("--names", default="", envvar="PILOT_NAMES"),
    click.option("--admin-token", default="", envvar="PILOT_ADMIN_TOKEN"),
    click.option("--recovery-secret", default="", envvar="PILOT_RECOVERY_SECRET"),
)


def _daemon_settings() -> dict[str, click.Parameter]:
    """The settings that stand at the top of the user's file."""
    return _settings.settings_of(_settings.params_of(flag.option() for flag in FLAGS))


@_commands.command()
@click.option("--registry", help=f"Registry, host:port; {wellknown.LOCAL_REGISTRY} unless given.")
@click.option("--beacon", help="Beacon, host:port; port 9001 of the registry's host unless given.")
@click.option("--hostname", help="Name to take.")
@global_options
@reported
def init(
    settings: Settings, registry: str | None, beacon: str | None, hostname: str | None
) -> None:
    """Write the user's file of settings, which the daemon and pilotctl read.

    Only this user can read it. What is in the file and not named here is kept.
    """
    content = _content()
    _put(content, "registry", registry, wellknown.LOCAL_REGISTRY)
    host = str(content["registry"]).partition(",")[0].rpartition(":")[0]
    _put(content, "beacon", beacon, f"{host}:{wellknown.BEACON_PORT}")
    _put(content, "hostname", hostname, "")
    if settings.socket is not None:
        content["socket"] = str(settings.socket.absolute())
    path = _config.write_user({name: value for name, value in content.items() if value != ""})
    chosen = {name: content[name] for name in ("registry", "beacon", "hostname")}
    data = {"config_path": str(path), **chosen, "socket": str(settings.socket_path)}
    settings.output.success(data, lambda screen: screen.print(f"wrote {path}"))


def _put(content: dict[str, object], name: str, given: str | None, otherwise: str) -> None:
    """Sets a key to what was given; to something else if neither that nor the file has one."""
    if given:
        content[name] = _checked(name, given)
    elif not content.get(name):
        content[name] = otherwise


def _content() -> dict[str, object]:
    try:
        return _config.read_object(_config.user_file())
    except FileNotFoundError:
        return {}


@click.group(cls=Group, invoke_without_command=True)
@click.option(
    "--set",
    "setting",
    metavar="KEY=VALUE",
    help="Set a key of the file; one without a value is removed.",
)
@global_options
@click.pass_context
def config(context: click.Context, setting: str | None) -> None:
    """Show the user's file of settings, or change it.

    Keys are the flags of pilot-daemon without their dashes. Secrets are not shown.
    """
    if context.invoked_subcommand is None:
        _show_or_set(setting)


@reported
def _show_or_set(settings: Settings, setting: str | None) -> None:
    if setting is not None:
        _set(settings, setting)
        return
    places = {
        "config_path": str(_config.user_file()),
        "pid_file": str(lifecycle.pid_file()),
        "log_file": str(lifecycle.log_file()),
    }
    shown = {name: _shown(name, value) for name, value in _content().items()}
    settings.output.success({**shown, **places})


def _shown(name: str, value: object) -> object:
    """A value of the file; secrets, also in sections, are not shown."""
    if isinstance(value, dict):
        return {key: _shown(key, inner) for key, inner in value.items()}
    return _settings.shown(name, value)


def _set(settings: Settings, setting: str) -> None:
    key, is_given, text = setting.partition("=")
    if not is_given or not key:
        raise InvalidArgument(
            f"not KEY=VALUE: {setting[:100]!r}", hint="pilotctl config --set hostname=my-agent"
        )
    if _config.is_secret(key):
        raise InvalidArgument(
            f"others can see {key!r} on a command line",
            hint=f"name a file with it: pilotctl config --set {key}-file=PATH, or edit "
            f"{_config.user_file()}",
        )
    name = key.replace("-", "_")
    value = _checked(key, text) if text else None
    _config.edit_user({name: value})
    settings.output.success({"key": key, "value": value if text else ""})


def _checked(key: str, text: str) -> _config.Setting:
    """The value of a setting, as JSON has it.

    Raises:
        InvalidArgument: there is no such setting, or it takes no such value.
    """
    params = _daemon_settings()
    kinds = {name: _settings.kind_of(parameter) for name, parameter in params.items()}
    name = key.replace("-", "_")
    if name not in params:
        error = _config.unknown(_config.user_file(), key, kinds)
        raise InvalidArgument(f"there is no setting {key!r}", hint=error.hint)
    value: _config.Setting = text
    if kinds[name] is bool:
        value = {"true": True, "false": False}.get(text, text)
    elif kinds[name] in {int, float}:
        try:
            value = kinds[name](text)
        except ValueError:
            value = text
    checked = _config.checked(_config.user_file(), key, value, kinds[name])
    try:
        params[name].type_cast_value(click.Context(config), checked)
    except click.BadParameter as error:
        raise InvalidArgument(f"{key}: {error.message.rstrip('.')}") from error
    return text if kinds[name] is list else checked


@config.command()
@click.option(
    "--program",
    type=click.Choice(_config.PROGRAMS),
    default="pilotctl",
    show_default=True,
    help="Whose settings.",
)
@global_options
@reported
def explain(settings: Settings, program: str) -> None:
    """Show each setting of a program with its value, and where that comes from.

    A flag comes before the environment, that before the file of --config, that before the user's
    file, that before the default.
    """
    if program == "pilotctl":
        report: Data = {"program": program, "settings": _own(settings)}
    else:
        report = _ask(program, settings)
    rows = report["settings"]
    assert isinstance(rows, list)

    def render(screen: Screen) -> None:
        shown = [row | {"value": _as_text(row["value"])} for row in rows]
        screen.rows(f"settings of {program}", _COLUMNS, shown)

    settings.output.success(report, render)


def _as_text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)


def _own(settings: Settings) -> list[dict[str, object]]:
    """The settings of pilotctl itself."""
    context = click.get_current_context()
    command = click.Command("explain", params=_settings.params_of(_OWN))
    inner = click.Context(command, info_name="explain", parent=context)
    _settings.apply(inner, _settings.settings_of(command.params), setting_files(settings))
    with inner:
        flag = [] if settings.socket is None else ["--socket", str(settings.socket)]
        command.parse_args(inner, flag)
    rows = _settings.explanation(inner)
    return [
        row | {"value": str(settings.socket_path)} if row["name"] == "socket" else row
        for row in rows
    ]


def _ask(program: str, settings: Settings) -> Data:
    entry, *arguments = _ENTRIES[program]
    code = f"from pilotstack._entry import {entry}; {entry}()"
    named = [] if settings.config is None else ["--config", str(settings.config)]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--explain-config", *named],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    for line in reversed((result.stdout or result.stderr).splitlines()):
        try:
            report = json.loads(line)
        except ValueError:
            break
        if isinstance(report, dict) and "settings" in report:
            return report
        if isinstance(report, dict) and report.get("status") == "error":
            raise from_code(report["code"], report["message"], report.get("hint"))
    raise InternalError(f"{program} does not tell", hint="it may be an older one")


COMMANDS = (init, config)
