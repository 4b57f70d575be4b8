"""The registry over TLS: pinned certificates, system trust, refusals."""

from __future__ import annotations

import hashlib
import socket
import ssl
import stat
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme
from tests.support.registries import TOKEN, Raw, Registries

from pilotstack.daemon.identity import Identity
from pilotstack.errors import ConnectionFailed, InvalidArgument, NotFound, PermissionDenied
from pilotstack.registry.client import RegistryClient, TlsTrust, parse_addresses, trust_of
from pilotstack.testing import Process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def fingerprint(registries: Registries, name: str = "primary") -> str:
    shown: str = registries.processes[name].ready["tls_fingerprint"]
    return shown


async def test_a_pinned_certificate_is_kept_over_a_restart(
    registries: Registries, tmp_path: Path
) -> None:
    address = registries.start("primary", "--tls")
    pin = fingerprint(registries)
    leaf = ssl.get_server_certificate(parse_addresses(address)[0])
    assert pin == hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf)).hexdigest()
    assert pin in registries.log_of("primary")
    client = registries.client(address, trust=TlsTrust((pin,)))
    registration = await client.register("127.0.0.1:4000")
    for name in ("primary.json.cert.pem", "primary.json.key.pem"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    registries.processes["primary"].kill()
    registries.start("primary", "--tls")
    assert fingerprint(registries) == pin
    # The same client: its connection broke, and it makes another.
    assert (await client.lookup(registration.node_id))["node_id"] == registration.node_id


async def test_another_certificate_is_refused_before_anything_is_said(
    registries: Registries,
) -> None:
    address = registries.start("primary", "--tls")
    client = registries.client(address, trust=TlsTrust(("0" * 64,)))
    with pytest.raises(PermissionDenied, match="another certificate") as refused:
        await client.register("127.0.0.1:4000")
    assert refused.value.hint
    pin = fingerprint(registries)
    assert not TlsTrust((pin.upper(),)).accepts(b"")
    with pytest.raises(ConnectionFailed):
        await registries.client(address, trust=TlsTrust()).lookup(1)
    # One of several pins is enough, as the primary and the standby have their own.
    other = registries.client(address, trust=TlsTrust(("0" * 64, pin)))
    assert (await other.register("127.0.0.1:4000")).node_id == 1


async def test_the_systems_trust_and_a_certificate_of_ones_own(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate, key, root = (tmp_path / name for name in ("cert.pem", "key.pem", "root.pem"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(certificate, append=True)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(root)
    address = registries.start("primary", "--tls-cert", str(certificate), "--tls-key", str(key))
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    client = registries.client(address, trust=TlsTrust())
    assert (await client.register("127.0.0.1:4000")).node_id == 1
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(ConnectionFailed):
        await registries.client(address, trust=TlsTrust()).lookup(1)


async def test_plain_clients_and_old_versions_are_dropped(registries: Registries) -> None:
    address = registries.start("primary", "--tls")
    with Raw(address) as plain:
        plain.send({"type": "beacon_list"})
        assert plain.is_closed()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(parse_addresses(address)[0]) as connection,
        context.wrap_socket(connection) as secure,
    ):
        assert secure.version() == "TLSv1.2"
    pin = fingerprint(registries)
    client = registries.client(address, trust=TlsTrust((pin,)))
    assert (await client.register("127.0.0.1:4000")).node_id == 1


async def test_a_daemon_and_a_standby_pin(registries: Registries, tmp_path: Path) -> None:
    primary = registries.start_primary("primary", "--tls")
    pin = fingerprint(registries)
    pinned = ["--registry-tls", "--registry-fingerprint", pin]
    flags = [
        *("--registry", primary, "--beacon", "", "--listen", "127.0.0.1:0", "--public"),
        *("--socket", str(tmp_path / "agent.sock")),
    ]
    daemon = Process("daemon", [*flags, *pinned], tmp_path / "daemon.log")
    try:
        node_id = daemon.ready["node_id"]
        standby = registries.start_standby(
            primary, "standby", "--primary-tls", "--primary-fingerprint", pin
        )
        reader = registries.client(standby)
        with anyio.fail_after(30):
            while True:
                try:
                    assert (await reader.lookup(node_id))["public"]
                    break
                except (NotFound, ConnectionFailed):
                    continue
    finally:
        daemon.stop()
    wrong = ["--registry-tls", "--registry-fingerprint", "1" * 64]
    with pytest.raises(ConnectionFailed, match="another certificate"):
        Process("daemon", [*flags, *wrong], tmp_path / "wrong.log")
    with pytest.raises(ConnectionFailed, match="--registry-fingerprint"):
        Process("daemon", [*flags, "--registry-tls"], tmp_path / "none.log")
    assert TOKEN not in registries.log_of("primary")


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ({"is_tls": False, "mode": "pinned", "fingerprints": "0" * 64}, "--registry-tls"),
        ({"is_tls": False, "mode": "system", "fingerprints": ""}, "--registry-tls"),
        ({"is_tls": True, "mode": "pinned", "fingerprints": ""}, "--registry-fingerprint"),
        ({"is_tls": True, "mode": "pinned", "fingerprints": "AB" * 32}, "lower-case"),
        ({"is_tls": True, "mode": "pinned", "fingerprints": "ab:" * 21}, "hexadecimal"),
        ({"is_tls": True, "mode": "system", "fingerprints": "0" * 64}, "one of them"),
    ],
)
def test_invalid_flags_are_refused(flags: dict[str, Any], hint: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        trust_of(**flags)
    assert hint in (refused.value.hint or "")


def test_valid_flags_are_accepted() -> None:
    assert trust_of(is_tls=False, mode="pinned", fingerprints="") is None
    assert trust_of(is_tls=True, mode="system", fingerprints="") == TlsTrust()
    two = trust_of(is_tls=True, mode="pinned", fingerprints=f"{'0' * 64}, {'1' * 64}")
    assert two == TlsTrust(("0" * 64, "1" * 64))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--tls-cert", "/nowhere"], "belong together"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "cannot use the certificate"),
    ],
)
async def test_a_server_says_what_is_wrong_with_its_certificate(
    registries: Registries, flags: list[str], text: str
) -> None:
    with pytest.raises(ConnectionFailed, match=text):
        registries.start("broken", *flags)


async def test_an_empty_list_of_registries_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        parse_addresses(" , ")
    with pytest.raises(InvalidArgument):
        RegistryClient([], Identity.generate())
    assert parse_addresses(["a:1, b:2", "[::1]:3"]) == (("a", 1), ("b", 2), ("::1", 3))
