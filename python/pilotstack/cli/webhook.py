"""``pilotctl set-webhook`` and ``clear-webhook``: where a daemon posts its events.

The URL is kept in the user's file of settings, and the running daemon is told. Existing daemons
take it; ours does not know this request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
import msgspec

from pilotstack import _commands, _config
from pilotstack.cli.context import global_options, reported
from pilotstack.errors import InvalidArgument, NotRunning, PilotError, Unavailable
from pilotstack.ipc.layout import Request, Text

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings

_MAX_URL: Final = 2048


class _Answer(msgspec.Struct, frozen=True):
    webhook: str = ""


class _SetWebhook(Request[_Answer], frozen=True):
    """A control verb of existing daemons."""

    command = 0x1B
    verb = "set_webhook"
    layout = (Text(_MAX_URL, may_be_empty=True),)

    url: str


@_commands.command("set-webhook")
@click.argument("url")
@global_options
@reported
def set_webhook(settings: Settings, url: str) -> None:
    """Have the daemon post its events to a URL, if it does so: existing daemons do.

    The URL is kept in the user's file of settings for the next start. `applied` says whether the
    running daemon took it.
    """
    _apply(settings, _checked(url))


@_commands.command("clear-webhook")
@global_options
@reported
def clear_webhook(settings: Settings) -> None:
    """Have the daemon post its events nowhere."""
    _apply(settings, "")


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_good = False
    if not is_good or not url.isprintable() or len(url) > _MAX_URL:
        raise InvalidArgument(
            f"not a URL of a webhook: {url[:100]!r}", hint="it begins with http:// or https://"
        )
    return url


def _apply(settings: Settings, url: str) -> None:
    _config.edit_user({"webhook": url or None})
    reason = ""
    try:
        with settings.session() as session:
            session.ask(_SetWebhook(url))
    except (NotRunning, Unavailable) as error:
        reason = error.message
    except PilotError as error:
        if "unknown command" not in error.message:
            raise
        reason = error.message

    def render(screen: Screen) -> None:
        screen.print(f"the webhook is {url}" if url else "there is no webhook")
        if reason:
            screen.print(f"kept for the next start; not applied: {reason}")

    settings.output.success({"webhook": url, "applied": not reason}, render)


COMMANDS = (set_webhook, clear_webhook)
