"""``pilotctl mcp``: the network as tools of an LLM agent, and MCP servers of agents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotstack import _commands, _serving, wellknown
from pilotstack.cli.context import asynchronous, find, global_options, split_target
from pilotstack.cli.pipe import join
from pilotstack.errors import Unavailable

if TYPE_CHECKING:
    from pilotstack.cli.settings import Settings


@click.group(
    "mcp",
    cls=_commands.Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Serve streamable HTTP there, at /mcp, instead of stdin and stdout.",
)
@click.option(
    "--consent",
    type=click.Choice(["ask", "always", "never"]),
    default="ask",
    show_default=True,
    help="Whether the model may trust nodes and send files: ask the operator through the client "
    "each time, or an answer given beforehand.",
)
@click.option(
    "--files",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder from which files may be sent; none unless given.",
)
@global_options
@click.pass_context
def mcp(context: click.Context, http: str | None, consent: str, files: Path | None) -> None:
    """Give an LLM agent the network as tools, over stdin and stdout."""
    if context.invoked_subcommand is None:
        _run(http=http, consent=consent, files=files)


@asynchronous
async def _run(settings: Settings, *, http: str | None, consent: Any, files: Path | None) -> None:
    try:
        from pilotstack.services.mcp.consent import Consent
        from pilotstack.services.mcp.server import new_server, run_http
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"{error.name} is not installed", hint="pip install 'pilotstack[mcp]'"
        ) from error
    async with settings.driver() as driver:
        server = new_server(driver, Consent(consent), files)
        if http is None:
            await server.run_stdio_async()
        else:
            await run_http(server, *_serving.split_address(http))


@_commands.command()
@click.argument("target")
@click.argument("port", type=click.IntRange(1, 0xFFFF), required=False)
@global_options
@asynchronous
async def connect(settings: Settings, target: str, port: int | None) -> None:
    """Join stdin and stdout to the MCP server of an agent, as a client's command does.

    TARGET is a node, as agent-b, agent-b:1010 or pilot://agent-b:1010.
    """
    named = target.removeprefix("pilot://").rstrip("/")
    host, chosen = split_target(named, port, wellknown.MCP_PORT)
    async with settings.driver() as driver:
        address = await find(driver, host)
        async with await driver.dial((address, chosen), no_delay=True) as stream:
            await join(stream, is_raw=True)


mcp.add_command(connect)

COMMANDS = (mcp,)
