"""Flags of existing programs that ours have under another name, in another form, or not at all
(``docs/how-to/migrate.md``). Works on arguments, before they are parsed, and on keys of settings
files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: The flag by which a program is told what it accepted without effect, to say so in its log.
WITHOUT_EFFECT: Final = "--without-effect"
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|s|m|h))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|s|m|h)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


@dataclass(frozen=True, slots=True)
class Flags:
    """What one program makes of the flags of existing ones. Names have no dashes in front."""

    #: Other names of flags of ours.
    renamed: Mapping[str, str] = field(default_factory=dict)
    #: What stands for a flag that is on, and for one that is off; empty for nothing.
    booleans: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: Flags of ours whose value is in seconds.
    durations: frozenset[str] = frozenset()
    #: Flags with a value and without one that have no effect, and why.
    ignored: Mapping[str, str] = field(default_factory=dict)
    ignored_booleans: Mapping[str, str] = field(default_factory=dict)

    def why(self, name: str) -> str:
        """Why a flag has no effect; empty if it has one, or does not exist."""
        if name == "encrypt":
            return "frames are always encrypted"
        return self.ignored.get(name, "") or self.ignored_booleans.get(name, "")

    def translate(self, arguments: list[str]) -> list[str]:
        """The arguments with flags of ours only. Those after ``--`` are unchanged."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        rest = iter(arguments[:end])
        return [part for each in rest for part in self._one(each, rest)] + arguments[end:]

    def _one(self, argument: str, rest: Iterator[str]) -> list[str]:
        if not argument.startswith("--"):
            return [argument]
        name, is_joined, value = argument[2:].partition("=")
        if name in self.ignored:
            if not is_joined:
                next(rest, "")
            return [WITHOUT_EFFECT, name]
        if name in self.ignored_booleans:
            return [] if is_joined and value in _FALSE else [WITHOUT_EFFECT, name]
        if name in self.booleans and (not is_joined or value in _TRUE | _FALSE):
            on, off = self.booleans[name]
            chosen = off if is_joined and value in _FALSE else on
            return [part for part in chosen.split() if part]
        name = self.renamed.get(name, name)
        if name in self.durations:
            value = seconds(value if is_joined else next(rest, ""))
            return [f"--{name}", value]
        return [f"--{name}={value}"] if is_joined else [f"--{name}"]

    def translate_settings(self, settings: Mapping[str, object]) -> dict[str, object]:
        """The members of a settings file with keys of ours only, as far as they are known."""
        found: dict[str, object] = {}
        idle: list[str] = []
        for key, value in settings.items():
            name = key.replace("_", "-")
            if name in self.ignored or name in self.ignored_booleans:
                # An empty value, or one that is off, asks for nothing.
                if value not in (None, "", False, 0, "false"):
                    idle.append(name)
                continue
            if name in self.booleans and value in (True, "true", False, "false"):
                on, off = self.booleans[name]
                said = (on if value in (True, "true") else off).split()
                if not said or said[0] == WITHOUT_EFFECT:
                    idle += said[1:]
                    continue
            name = self.renamed.get(name, name)
            if name in self.durations and isinstance(value, str):
                value = float(seconds(value)) if _DURATION.fullmatch(value) else value
            found[name if name != key.replace("_", "-") else key] = value
        if idle:
            found[WITHOUT_EFFECT[2:]] = idle
        return found


def seconds(text: str) -> str:
    """A duration such as ``60s`` or ``1m30s`` in seconds; other texts as they are."""
    if not _DURATION.fullmatch(text):
        return text
    total = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    return f"{total:g}"


_ALWAYS: Final = "it is always so here"
_NO_TRANSPORT: Final = "tunnels use UDP, and a beacon's relay where that does not pass"
_NO_EXTRAS: Final = "this daemon has nothing of that kind"
_LIMITS: Final = "limits are per peer and in all, and are not set"
_NO_WEBHOOK: Final = "there are no webhooks; programs subscribe to events: pilotctl subscribe"

#: Beside those, ``--log-level``, ``--public`` and most others are the same.
DAEMON: Final = Flags(
    renamed={"email": "owner", "advertise-endpoint": "endpoint"},
    booleans={
        "public": ("--public", "--private"),
        "relay-only": ("--relay-only", "--no-relay-only"),
        "registry-tls": ("--registry-tls", "--no-registry-tls"),
        "trust-auto-approve": ("--trust-auto-approve", "--no-trust-auto-approve"),
        "no-echo": ("--no-echo", ""),
        "no-dataexchange": ("--no-dataexchange", ""),
        "no-eventstream": ("--no-eventstream", ""),
        # There is no way to send in the clear, so only "off" is worth a warning.
        "encrypt": ("", "--without-effect encrypt"),
        "no-encrypt": ("--without-effect encrypt", ""),
    },
    durations=frozenset({"keepalive"}),
    ignored={
        "idle-timeout": "streams and tunnels last as long as their peers answer",
        "time-wait": "its length is fixed",
        "syn-rate-limit": _LIMITS,
        "max-conns-per-port": _LIMITS,
        "max-conns-total": _LIMITS,
        "syn-whitelist": _LIMITS,
        "reply-whitelist": "who was called may call back to two ports for five minutes",
        "rekey-whitelist": _LIMITS,
        "webhook": _NO_WEBHOOK,
        "webhook-secret": _NO_WEBHOOK,
        "transport": _NO_TRANSPORT,
        "proxy": _NO_TRANSPORT,
        "proxy-cmd": _NO_TRANSPORT,
        "compat-beacon": _NO_TRANSPORT,
        "tls-trust": _NO_TRANSPORT,
        "log-max-size": "the log is not rotated: send it to journald or logrotate",
        "log-max-backups": "the log is not rotated: send it to journald or logrotate",
        "sandbox-dir": _NO_EXTRAS,
        "security-profile": _NO_EXTRAS,
        "motd-feed-url": _NO_EXTRAS,
        "motd-interval": _NO_EXTRAS,
        "telemetry-url": "nothing is reported to anybody",
        "pprof": "see pilotctl info --json for counters",
        "wait": "pilotctl daemon start waits until the daemon serves",
    },
    ignored_booleans={
        "strict-dataplane-trust": _ALWAYS,
        "beacon-rtt-probe": "all beacons are asked, and the first that answers is the home",
        "sandbox": _NO_EXTRAS,
        "dataexchange-b64": "bytes are kept as they are",
        "no-skillinject": _ALWAYS,
        "no-rx-watchdog": "a dead path is always noticed",
        "no-path-watch": "paths are always watched",
        "no-addr-watch": "addresses of this host are always watched",
    },
)

_BACKUPS: Final = "copy the store and its journal instead: docs/how-to/rendezvous.md"

#: ``--repl-token`` and the others have their effect.
RENDEZVOUS: Final = Flags(
    booleans={"tls": ("--tls", "")},
    durations=frozenset({"stale-threshold"}),
    ignored={
        "backups-dir": _BACKUPS,
        "backups-interval": _BACKUPS,
        "backups-keep": _BACKUPS,
        "dashboard-token": "nothing that a stranger may not know is shown",
        "pprof": "see /metrics for counters",
    },
)

#: What programs make of the flags of existing ones.
PROGRAMS: Final = {
    "pilot-daemon": DAEMON,
    "pilot-rendezvous": RENDEZVOUS,
    "pilot-registry": RENDEZVOUS,
}
