"""Sections of the help of ``pilotctl``, in the order in which they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Commands by section. Those in none of them stand in the last one.
SECTIONS: Final = {
    "Identity and discovery": (
        *("info", "set-hostname", "clear-hostname", "find", "lookup", "set-public", "set-private"),
        *("set-tags", "clear-tags", "name-register", "name-unregister", "name-list", "resolve"),
        *("sign-request", "verify-request"),
    ),
    "Communication": (
        *("connect", "accept", "send", "recv", "dgram", "listen", "send-file", "received"),
        *("send-message", "inbox", "publish", "subscribe"),
    ),
    "Trust": ("handshake", "pending", "approve", "reject", "trust", "untrust"),
    "Networks": ("network", "broadcast", "member-tags", "policy"),
    "Diagnostics": (
        *("ping", "traceroute", "bench", "peers", "connections", "disconnect", "top", "health"),
        *("netcheck", "prefer-direct", "services", "doctor", "why"),
    ),
    "Registry": ("register", "deregister", "rotate-key", "recovery", "ban", "unban"),
    "Services": (*("gateway", "forward", "expose", "mcp", "set-webhook", "clear-webhook"),),
    "Operations": (
        *("daemon", "init", "config", "context", "completion", "version", "quickstart", "demo"),
        "migrate",
    ),
}


def by_section(commands: Iterable[str]) -> dict[str, list[str]]:
    """The commands that there are, by section, in the order of :data:`SECTIONS`."""
    left = dict.fromkeys(commands)
    found = {}
    for section, names in SECTIONS.items():
        found[section] = [name for name in names if name in left]
        for name in found[section]:
            del left[name]
    found[section] += left
    return {section: names for section, names in found.items() if names}
