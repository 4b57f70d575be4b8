"""Flags and settings of existing daemons."""

from __future__ import annotations

import pytest

from pilotstack import _flags
from pilotstack._legacy import DAEMON, RENDEZVOUS, WITHOUT_EFFECT, seconds
from pilotstack.daemon.main import daemon
from pilotstack.registry.main import rendezvous

#: Flags of the daemons of both older generations, with a value as their programs take it.
EXISTING = {
    **dict.fromkeys(("registry", "beacon"), "127.0.0.1:1"),
    **dict.fromkeys(("socket", "identity", "config"), "/x"),
    **dict.fromkeys(("owner", "email", "hostname", "webhook", "webhook-secret"), "x"),
    **dict.fromkeys(("listen", "endpoint", "advertise-endpoint"), ":1"),
    **dict.fromkeys(("keepalive", "idle-timeout", "time-wait", "motd-interval"), "60s"),
    **dict.fromkeys(
        ("syn-rate-limit", "max-conns-per-port", "max-conns-total", "log-max-size"), "100"
    ),
    **dict.fromkeys(("log-max-backups", "networks"), "3"),
    **dict.fromkeys(("syn-whitelist", "reply-whitelist", "rekey-whitelist"), "1,2"),
    **dict.fromkeys(("transport", "proxy", "proxy-cmd", "compat-beacon", "tls-trust"), "x"),
    **dict.fromkeys(("sandbox-dir", "security-profile", "motd-feed-url", "telemetry-url"), "x"),
    **dict.fromkeys(("admin-token", "registry-fingerprint", "pprof"), "x"),
    "registry-trust": "pinned",
    "log-level": "info",
    "log-format": "text",
}
BOOLEANS = (
    *("encrypt", "registry-tls", "public", "relay-only", "trust-auto-approve"),
    *("no-echo", "no-dataexchange", "no-eventstream", "no-skillinject", "no-rx-watchdog"),
    *("no-path-watch", "no-addr-watch", "strict-dataplane-trust", "beacon-rtt-probe"),
    *("sandbox", "dataexchange-b64"),
)


def parsed(*arguments: str) -> dict[str, object]:
    """What the daemon's command makes of arguments, without running it."""
    flags = DAEMON.translate(_flags.normalize(list(arguments)))
    return daemon.make_context("pilot-daemon", flags, resilient_parsing=False).params


@pytest.mark.parametrize("name", sorted(EXISTING.keys() - {"config"}))
@pytest.mark.parametrize("form", ["-{} {}", "--{} {}", "-{}={}"])
def test_flags_of_existing_daemons_are_taken_or_said_to_have_no_effect(
    name: str, form: str
) -> None:
    params = parsed(*form.format(name, EXISTING[name]).split(), "--hostname", "after")
    assert params["hostname"] == "after"
    idle = params["without_effect"]
    if idle:
        assert idle == (name,)
        assert DAEMON.why(name)
    else:
        assert DAEMON.renamed.get(name, name).replace("-", "_") in params


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.parametrize("value", ["", "=true", "=false"])
def test_switches_of_existing_daemons_take_a_value(name: str, value: str) -> None:
    params = parsed(f"-{name}{value}", "--hostname", "after")
    assert params["hostname"] == "after"
    is_on = value != "=false"
    if (own := name.replace("-", "_")) in params:
        assert params[own] is is_on
    elif name == "encrypt":
        assert params["without_effect"] == (() if is_on else ("encrypt",))
    else:
        assert params["without_effect"] == ((name,) if is_on else ())
        assert DAEMON.why(name)


def test_values_have_their_effect() -> None:
    params = parsed("-email", "a@example.com", "-keepalive=1m30s", "-advertise-endpoint", "h:1")
    values = [params[name] for name in ("owner", "keepalive", "endpoint")]
    assert values == ["a@example.com", 90, "h:1"]
    assert parsed("-no-encrypt")["without_effect"] == ("encrypt",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("60s", "60"), ("1m30s", "90"), ("250ms", "0.25"), ("1h", "3600"), ("30", "30"), ("x", "x")],
)
def test_durations(text: str, expected: str) -> None:
    assert seconds(text) == expected


def test_settings_of_existing_files() -> None:
    found = DAEMON.translate_settings(
        {
            "email": "a@example.com",
            "keepalive": "60s",
            "webhook": "",
            "telemetry_url": "https://x.example",
            "encrypt": True,
            "hostname": "a",
            "mistyped": 1,
        }
    )
    assert found == {
        "owner": "a@example.com",
        "keepalive": 60.0,
        "hostname": "a",
        "mistyped": 1,
        WITHOUT_EFFECT[2:]: ["telemetry-url"],
    }


def test_arguments_after_two_dashes_are_not_changed() -> None:
    assert DAEMON.translate(["--email=a", "--", "--email=a"]) == ["--owner=a", "--", "--email=a"]


def test_flags_of_existing_rendezvous_servers() -> None:
    given = (
        "-registry-addr :9000 -beacon-addr=:9001 -store f.json -http :3000 -tls=false "
        "-admin-token x -repl-token y -stale-threshold 30m -backups-dir /b -log-level info"
    )
    flags = RENDEZVOUS.translate(_flags.normalize(given.split()))
    params = rendezvous.make_context("pilot-rendezvous", flags).params
    assert params["without_effect"] == ("backups-dir",)
    assert params["stale_threshold"] == 1800
    assert params["replication_token"] == "y"
    assert not params["tls"]
