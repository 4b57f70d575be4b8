"""``pilotstack-serve``: an ASGI application on the overlay in one command."""

from __future__ import annotations

import asyncio
import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotstack import _commands, _flags, _serving, _settings, wellknown

if TYPE_CHECKING:
    from collections.abc import Callable


@_commands.command("pilotstack-serve", context_settings={"auto_envvar_prefix": "PILOT_SERVE"})
@_settings.options("pilotstack-serve")
@click.argument("app")
@click.option(
    "--port",
    type=click.IntRange(0, 0xFFFF),
    default=wellknown.HTTP_PORT,
    show_default=True,
    help="Port of the overlay; 0 means any that is free.",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="PILOT_SOCKET",
    help="The daemon's socket (PILOT_SOCKET).",
)
@click.option(
    "--app-dir", default=".", show_default=True, help="Where the application is imported from."
)
@click.option("--factory", is_flag=True, help="APP is a function that makes the application.")
@click.option(
    "--lifespan",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Whether the application is told of start and end.",
)
@click.option(
    "--limit-concurrency",
    type=click.IntRange(1),
    help="Requests at once; others are answered 503. Unlimited unless given.",
)
@click.option("--access-log/--no-access-log", default=True, help="A line for each request.")
@click.option(
    "--log-level",
    type=click.Choice(["critical", "error", "warning", "info", "debug", "trace"]),
    default="info",
    show_default=True,
    help="Of uvicorn.",
)
@click.version_option(wellknown.VERSION)
def serve(*, app: str, port: int, socket: Path | None, app_dir: str, **settings: Any) -> None:
    """Serve the ASGI application APP, as module:name, on a port of the overlay.

    It prints a line of JSON once it serves. Restarts of the daemon are survived.
    """
    import uvicorn.config

    from pilotstack.services.adapters import asgi

    sys.path.insert(0, app_dir)

    def announce(chosen: int) -> None:
        _serving.announce(app=app, port=chosen)

    logging = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    # The only line on stdout is ours.
    logging["handlers"]["access"]["stream"] = "ext://sys.stderr"
    serving = asgi.serve(
        app, port, socket_path=socket, on_listening=announce, log_config=logging, **settings
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serving)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop, if it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def run() -> None:
    """Entry point of ``pilotstack-serve``."""
    _serving.run_command(serve, _flags.normalize(sys.argv[1:]))
