"""``pilotctl``. Knows every command's name and purpose, and imports the module of one that is run.

Adding a command means a function in the module of its group and a line in :data:`COMMANDS`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Final

import click

from pilotstack import _commands, wellknown
from pilotstack.cli import process
from pilotstack.cli.context import Group, global_options
from pilotstack.cli.output import Output, exit_status
from pilotstack.errors import PilotError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Commands by the module that defines them, with the first sentence of their help.
COMMANDS: Final = {
    "agent": {
        "clear-hostname": "Give up this node's name.",
        "connections": "List this node's connections.",
        "disconnect": "End a connection of any program.",
        "find": "Find the address behind a hostname.",
        "health": "Show whether the daemon works, and how much it does.",
        "info": "Show this node: address, identity, peers, connections.",
        "lookup": "Ask the registry about a node, by id, address or hostname.",
        "prefer-direct": "Ask the registry anew where a node is, and try to reach it without a "
        "relay.",
        "peers": "List nodes that this one has tunnels to, and the paths in use.",
        "set-hostname": "Take a name that others can dial.",
        "set-private": "Let only trusted nodes reach this one.",
        "set-public": "Let everybody reach this node.",
    },
    "completion": {
        "completion": "Print the script with which a shell completes commands and flags.",
    },
    "configuration": {
        "config": "Show the user's file of settings, or change it.",
        "init": "Write the user's file of settings, which the daemon and pilotctl read.",
    },
    "bans": {
        "ban": "Take a node off the network, for the operator; its key is refused from now on.",
        "unban": "Let the key of a node that was banned register again.",
    },
    "demo": {
        "demo": "Run the whole stack on an embedded loopback network, and clean up.",
    },
    "envelopes": {
        "sign-request": "Sign a request with this node's key, for an audience.",
        "verify-request": "Check who signed a request, and when. One that is not authentic is a "
        "failure.",
    },
    "doctor": {
        "doctor": "Look for what is wrong with this host, its daemon, and the way to registry and "
        "beacons.",
    },
    "events": {
        "publish": "Publish an event at a node's broker.",
        "subscribe": 'Print the events of a topic at a node\'s broker; "*" means all topics.',
    },
    "files": {
        "inbox": "List messages that peers sent, the newest first; or show those with these ids.",
        "received": "List files that peers sent, the newest first.",
        "send-file": 'Send a file, a folder, or stdin as "-", of any size.',
        "send-message": "Send a text, JSON or bytes to a node's inbox.",
    },
    "forward": {
        "expose": "Carry streams to a port of this node to a local service.",
        "forward": "Carry connections to a local port to a port of an agent.",
    },
    "gateway": {
        "gateway": "Reach agents through local IP addresses, and through a proxy.",
    },
    "guide": {
        "context": "Describe every command for programs: arguments, flags, types, defaults, "
        "examples.",
        "quickstart": "Show the first steps, from a daemon to a message.",
        "version": "Show the version of this program.",
    },
    "identity": {
        "clear-tags": "Take all tags away.",
        "deregister": "Take this node off the network, and out of its networks; "
        "the daemon goes on.",
        "recovery": "Prepare for the day on which this node's key is lost.",
        "register": "Put this node on the network again after deregister.",
        "rotate-key": "Replace this node's key; or, with NODE, that of a node whose key was lost.",
        "set-tags": "Say what this node can be found by: 1 to 3 tags.",
    },
    "mcp": {
        "mcp": "Give an LLM agent the network as tools, over stdin and stdout.",
    },
    "members": {
        "member-tags": "Tags that a network gives to its members.",
        "policy": "The policy of a network.",
    },
    "migrate": {
        "migrate": "Show what existing programs left, and what becomes of it; and copy it, unless "
        "--dry-run.",
    },
    "names": {
        "name-list": "List the names that this node has at the nameserver.",
        "name-register": "Register a name for this node, for five minutes.",
        "name-unregister": "Give a name of this node up.",
        "resolve": "Ask the nameserver what is behind a name; with --type S, who offers --port in "
        "NETWORK.",
    },
    "network": {
        "broadcast": "Send one datagram to every other member of a network.",
        "network": "Networks of agents: members reach each other, others do not.",
    },
    "reach": {
        "netcheck": "Find out what stands between this host and its peers.",
        "traceroute": "Set up a connection step by step, and show times and the path.",
    },
    "service": {
        "daemon": "Start, stop and look at the daemon.",
    },
    "services": {
        "services": "List what a node offers on the well-known ports; this node unless TARGET is "
        "given.",
    },
    "top": {
        "top": "Watch peers, streams, rates and paths, until interrupted.",
    },
    "traffic": {
        "accept": "Take one stream on a port, and join stdin and stdout to it; the port is 1000 "
        "unless given.",
        "bench": "Send SIZE_MB MiB to a node's echo service and back, and report MiB per second.",
        "connect": "Join stdin and stdout to a stream, until the peer closes; the port is 1000 "
        "unless given.",
        "dgram": "Send one datagram.",
        "listen": "Print datagrams that arrive on a port.",
        "ping": "Measure round trips to a node's echo service.",
        "recv": "Take streams on a port and print what each one sends, to its end.",
        "send": "Send one message on a stream and print the answer.",
    },
    "trust": {
        "approve": "Grant a node's request for trust.",
        "handshake": "Ask a node for trust, by id, address or hostname.",
        "pending": "List requests for trust that wait for an answer.",
        "reject": "Refuse a node's request for trust, and tell it the reason.",
        "trust": "List nodes in mutual trust with this one, the newest first.",
        "untrust": "End the trust of both sides; the node's streams are reset.",
    },
    "why": {
        "why": "Explain in a paragraph why a node is slow or unreachable.",
    },
    "webhook": {
        "clear-webhook": "Have the daemon post its events nowhere.",
        "set-webhook": "Have the daemon post its events to a URL, if it does so: existing daemons "
        "do.",
    },
}


class _Deferred(_commands.Command):
    """A command whose module is not imported yet."""

    def __init__(self, name: str, module: str, purpose: str) -> None:
        super().__init__(name, help=purpose)
        self._module = module

    def load(self) -> click.Command:
        """The command itself."""
        module = importlib.import_module(f"pilotstack.cli.{self._module}")
        found: dict[str | None, click.Command] = {each.name: each for each in module.COMMANDS}
        return found[self.name]


class _Pilotctl(Group):
    """The group of all commands."""

    def add_deferred(self) -> None:
        """Adds all commands, whose modules are imported when they are used."""
        for module, commands in COMMANDS.items():
            for name, purpose in commands.items():
                self.add_command(_Deferred(name, module, purpose))

    def examples_of(self, path: str) -> tuple[str, ...]:
        """Examples of a command."""
        from pilotstack.cli.examples import examples_of

        return examples_of(path)

    def sections(self) -> dict[str, list[str]]:
        """The commands by section."""
        from pilotstack.cli.sections import by_section

        return by_section(self.commands)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, for the shell, without importing any; and flags."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=command.help)
            for name, command in self.commands.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a line. Existing programs have some commands behind ``extras``."""
        shown = args[1:] if args[0] == "extras" else args
        if not shown:
            raise click.UsageError("a command is missing", ctx)
        return super().resolve_command(ctx, shown)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, whose module is imported now."""
        command = super().get_command(ctx, cmd_name)
        return command.load() if isinstance(command, _Deferred) else command


@click.group(cls=_Pilotctl, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(wellknown.VERSION)
@global_options
def pilotctl() -> None:
    """Use and inspect the overlay network for agents."""


pilotctl.add_deferred()


def run() -> None:
    """Entry point of ``pilotctl``: runs the command and exits with its status."""
    arguments = sys.argv[1:]
    if "daemon" in arguments and "start" in arguments:
        # With the flags of existing daemons, of which this command had its own.
        from pilotstack import _flags, _legacy

        arguments = _legacy.DAEMON.translate(_flags.normalize(arguments))

    def command() -> int:
        output = Output(_wants_json(arguments))
        return process.guarded(output, lambda: _run(output, arguments))

    process.run(command)


def _run(output: Output, arguments: list[str]) -> int:
    try:
        # click returns the status of a command that exits, else the command's own result: None.
        return pilotctl.main(arguments, prog_name="pilotctl", standalone_mode=False) or 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "pilotctl"
        message = error.format_message().rstrip(".")
        output.report("invalid_argument", message, hint=f"see: {path} --help")
        return exit_status("invalid_argument")
    except PilotError as error:
        # A file of settings.
        output.failure(error)
        return exit_status(error.code)
    except click.Abort as error:
        raise KeyboardInterrupt from error


def _wants_json(arguments: list[str]) -> bool | None:
    """What the global flags say, also when the rest cannot be parsed."""
    flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
    asked = [flag for flag in flags if flag in {"--json", "-json", "--no-json", "-no-json"}]
    return "no" not in asked[-1] if asked else None
