"""SSH by asyncssh, at both ends. OpenSSH's client needs no code:
``ssh -o ProxyCommand='pilotctl connect %h %p' -p 22 agent-b``."""

from __future__ import annotations

import asyncssh

import pilotstack


async def shout(process: asyncssh.SSHServerProcess[str]) -> None:
    """What a client's command prints: the command in capitals."""
    process.stdout.write(f"{process.command or ''}\n".upper())
    process.exit(0)


class Everybody(asyncssh.SSHServer):
    """Lets agents in without a password: the tunnel has proved who they are."""

    def begin_auth(self, username: str) -> bool:
        """No further proof is wanted."""
        return False


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    key = asyncssh.generate_private_key("ssh-ed25519")

    async def handle(stream: pilotstack.Stream) -> None:
        connection = await asyncssh.run_server(
            stream.socket(),
            server_host_keys=[key],
            server_factory=Everybody,
            process_factory=shout,
        )
        await connection.wait_closed()

    async with pilotstack.Driver(socket) as driver, driver.listen(port) as listener:
        await listener.serve(handle)


async def ask(socket: str, target: str, command: str) -> str:
    """What a command prints there."""
    options = asyncssh.SSHClientConnectionOptions(
        known_hosts=None, config=None, username="agent", agent_path=None
    )
    async with pilotstack.Driver(socket) as driver:
        stream = await driver.dial(target)
        async with asyncssh.connect(sock=stream.socket(), options=options) as connection:
            result = await connection.run(command, check=True)
            return str(result.stdout).rstrip()
