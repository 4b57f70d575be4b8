"""Examples of each command, for its help page and the catalogue. Tests run them."""

from __future__ import annotations

from typing import Final

#: By the path of the command without ``pilotctl``. Lines are as typed into a shell.
EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    # Identity and discovery
    "info": ("pilotctl info", "pilotctl info --json"),
    "set-hostname": ("pilotctl set-hostname my-agent",),
    "clear-hostname": ("pilotctl clear-hostname",),
    "find": ("pilotctl find agent-b",),
    "lookup": ("pilotctl lookup 2", "pilotctl lookup agent-b"),
    "set-public": ("pilotctl set-public",),
    "set-private": ("pilotctl set-private",),
    "set-tags": ("pilotctl set-tags weather europe",),
    "clear-tags": ("pilotctl clear-tags",),
    "name-register": (
        "pilotctl name-register agent-alpha",
        "pilotctl name-register printers --type S --network 0 --port 631",
    ),
    "name-unregister": ("pilotctl name-unregister agent-alpha",),
    "name-list": ("pilotctl name-list",),
    "resolve": ("pilotctl resolve agent-alpha", "pilotctl resolve 0 --type S --port 631"),
    "sign-request": ("pilotctl sign-request --audience svc --body hello",),
    "verify-request": (
        "pilotctl verify-request --envelope ENVELOPE --signature SIGNATURE --standing",
    ),
    # Communication
    "connect": (
        "pilotctl connect agent-b",
        "pilotctl connect agent-b 7 --message hello",
        "pilotctl connect agent-b:443 --secure",
    ),
    "accept": ("pilotctl accept", "pilotctl accept 5000 --timeout 1m > received.bin"),
    "send": ("pilotctl send agent-b 7 --data hello", "pilotctl send agent-b:7 --data hello"),
    "recv": ("pilotctl recv 5000 --count 2 --timeout 1m",),
    "dgram": ("pilotctl dgram agent-b 4000 --data hello",),
    "listen": ("pilotctl listen 4000", "pilotctl listen 4000 --count 1 --timeout 10s"),
    "send-file": (
        "pilotctl send-file agent-b report.pdf",
        "tar cz data | pilotctl send-file agent-b - --name data.tar.gz",
    ),
    "received": ("pilotctl received", "pilotctl received --limit 5"),
    "send-message": (
        "pilotctl send-message agent-b --data hello",
        """pilotctl send-message agent-b --type json --data '{"temperature": 21}'""",
    ),
    "inbox": ("pilotctl inbox", "pilotctl inbox --latest"),
    "publish": ("pilotctl publish agent-b weather.berlin --data 21",),
    "subscribe": (
        'pilotctl subscribe agent-b "*"',
        "pilotctl subscribe agent-b weather.berlin --count 1 --timeout 10s",
        "pilotctl subscribe agent-b logs.app --reconnect",
    ),
    # Trust
    "handshake": ('pilotctl handshake agent-b "want to collaborate"',),
    "pending": ("pilotctl pending",),
    "approve": ("pilotctl approve 2",),
    "reject": ('pilotctl reject 3 "not authorized"',),
    "trust": ("pilotctl trust", "pilotctl trust --limit 0 --search 2"),
    "untrust": ("pilotctl untrust 2",),
    # Networks
    "migrate": (
        "pilotctl migrate --dry-run",
        "pilotctl migrate --dry-run --store /var/lib/rendezvous/registry.json",
    ),
    "network list": ("pilotctl network list",),
    "network create": ("pilotctl network create lab --join-rule invite",),
    "network join": ("pilotctl network join garden",),
    "network leave": ("pilotctl network leave garden",),
    "network members": ("pilotctl network members lab",),
    "network invite": ("pilotctl network invite lab agent-b",),
    "network invites": ("pilotctl network invites",),
    "network accept": ("pilotctl network accept lab",),
    "network reject": ("pilotctl network reject lab",),
    "network rename": ("pilotctl network rename lab team",),
    "network token": ("pilotctl network token gated --ttl 24h",),
    "network promote": ("pilotctl network promote lab agent-b",),
    "network demote": ("pilotctl network demote lab agent-b",),
    "network kick": ("pilotctl network kick lab agent-b",),
    "network policy": (
        "pilotctl network policy lab",
        "pilotctl network policy lab --allowed-ports 7,1001",
    ),
    "network role": ("pilotctl network role lab agent-b",),
    "network transfer": ("pilotctl network transfer lab agent-b",),
    "network delete": ("pilotctl network delete team",),
    "broadcast": ('pilotctl broadcast lab "stand-up in five minutes" --port 4000',),
    "policy get": ("pilotctl policy get --net lab",),
    "member-tags get": (
        "pilotctl member-tags get --net lab",
        "pilotctl member-tags get --net lab --node agent-b",
    ),
    "member-tags set": ("pilotctl member-tags set --net lab --node agent-b --tags gpu,fast",),
    # Diagnostics
    "ping": ("pilotctl ping agent-b", "pilotctl ping 0:0000.0000.0002 --count 2 --timeout 5s"),
    "traceroute": ("pilotctl traceroute agent-b",),
    "bench": ("pilotctl bench agent-b", "pilotctl bench agent-b 10"),
    "peers": ("pilotctl peers", "pilotctl peers --candidates --search 2"),
    "connections": ("pilotctl connections",),
    "disconnect": ("pilotctl disconnect 5",),
    "top": ("pilotctl top", "pilotctl top --once", "pilotctl top --json --interval 5s | jq .data"),
    "health": ("pilotctl health",),
    "prefer-direct": ("pilotctl prefer-direct agent-b",),
    "netcheck": ("pilotctl netcheck",),
    "doctor": ("pilotctl doctor", "pilotctl doctor --json | jq .data.findings"),
    "why": ("pilotctl why agent-b", "pilotctl why agent-b --port 8080 --observe 5s"),
    "services": ("pilotctl services", "pilotctl services agent-b --port 8080 --all"),
    # Registry
    "register": ("pilotctl register",),
    "deregister": ("pilotctl deregister",),
    "rotate-key": (
        "pilotctl rotate-key",
        "pilotctl rotate-key 3 agent-c@pilot --identity new-identity.json",
    ),
    "ban": ("pilotctl ban 7",),
    "unban": ("pilotctl unban 7",),
    "recovery enroll": ("pilotctl recovery enroll",),
    "recovery withdraw": ("pilotctl recovery withdraw",),
    # Services
    "gateway run": ("pilotctl gateway run agent-b --ports 80,8080",),
    "gateway start": ("pilotctl gateway start agent-b --proxy 127.0.0.1:1080",),
    "gateway list": ("pilotctl gateway list",),
    "gateway map": ("pilotctl gateway map agent-b 10.4.0.7",),
    "gateway unmap": ("pilotctl gateway unmap 10.4.0.7",),
    "gateway stop": ("pilotctl gateway stop",),
    "forward": ("pilotctl forward 8080 agent-b:80",),
    "expose": ("pilotctl expose 80 127.0.0.1:8000",),
    "mcp": ("pilotctl mcp",),
    "mcp connect": ("pilotctl mcp connect agent-b",),
    "set-webhook": ("pilotctl set-webhook http://127.0.0.1:8000/events",),
    "clear-webhook": ("pilotctl clear-webhook",),
    # Operations
    "daemon start": (
        "pilotctl daemon start",
        "pilotctl daemon start --hostname my-agent --registry registry.example:9000 "
        "--beacon registry.example:9001",
    ),
    "daemon stop": ("pilotctl daemon stop",),
    "daemon status": ("pilotctl daemon status", "pilotctl daemon status --check && echo runs"),
    "init": ("pilotctl init --registry registry.example:9000 --hostname my-agent",),
    "config": ("pilotctl config", "pilotctl config --set hostname=my-agent"),
    "config explain": (
        "pilotctl config explain",
        "pilotctl config explain --program pilot-rendezvous",
    ),
    "context": ("pilotctl context", "pilotctl context ping"),
    "completion": (
        "pilotctl completion bash > ~/.local/share/bash-completion/completions/pilotctl",
        'pilotctl completion zsh > "${fpath[1]}/_pilotctl"',
        "pilotctl completion fish > ~/.config/fish/completions/pilotctl.fish",
    ),
    "version": ("pilotctl version",),
    "quickstart": ("pilotctl quickstart",),
    "demo": ("pilotctl demo",),
}


def examples_of(path: str) -> tuple[str, ...]:
    """Examples of a command, by its path with or without ``pilotctl``."""
    return EXAMPLES.get(path.removeprefix("pilotctl").strip(), ())
