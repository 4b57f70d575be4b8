"""Every fault of a registry, met for real: servers that misbehave, certificates that are wrong,
clocks that differ."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.tls import TLSListener

from pilotstack.diagnosis import probes, registry
from pilotstack.diagnosis.findings import Severity
from pilotstack.registry.protocol import framing
from pilotstack.registry.protocol.tls import TlsTrust

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from pilotstack.diagnosis.registry import Contact

    Handler = Callable[[anyio.abc.ByteStream], Awaitable[None]]

pytestmark = pytest.mark.anyio
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def answering(ahead: float = 0.0, **members: object) -> Handler:
    """A registry whose clock is ahead."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            reply = {"type": "beacon_list_ok", "beacons": [], "time": int(time.time() + ahead)}
            await stream.send(framing.encode(reply | members))

    return serve


async def closing(stream: anyio.abc.ByteStream) -> None:
    await stream.receive()
    await stream.aclose()


async def babbling(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@asynccontextmanager
async def served(
    handler: Handler, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    """The address of such a server."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        if context is None:
            tasks.start_soon(listener.serve, handler)
        else:
            secure = TLSListener(listener, context, standard_compatible=False)
            tasks.start_soon(secure.serve, handler)
        yield "127.0.0.1", port
        tasks.cancel_scope.cancel()


def certified(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "127.0.0.1", **dates: object
) -> ssl.SSLContext:
    """A server's context with a certificate of an authority that the system trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(path / "root.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(path / "root.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued = authority.issue_cert(name, **dates)  # type: ignore[arg-type] # names the dates
    issued.configure_cert(context)
    return context


async def code_of(address: tuple[str, int], trust: TlsTrust | None = None) -> str:
    found = registry.reachable(await probes.contact(address, trust, patience=0.5))
    assert found.text.endswith(".")
    assert found.fix
    assert found.severity is Severity.ERROR
    return found.code


async def test_a_registry_that_answers() -> None:
    async with served(answering()) as address:
        contact = await probes.contact(address, None)
    assert registry.reachable(contact).code == "registry_reached"
    assert registry.certificate(contact, time.time()).code == "tls_off"
    assert registry.clock(contact).code == "clock_right"


async def test_registries_that_cannot_be_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unserved:
        address = unserved.getsockname()
        assert await code_of(address) == "registry_silent"
    assert await code_of(address) == "registry_refused"
    assert await code_of(("no-such-host.invalid", 9000)) == "registry_unresolved"
    async with served(closing) as address:
        assert await code_of(address) == "registry_closed"
    async with served(babbling) as address:
        assert await code_of(address) == "registry_other_protocol"
        assert await code_of(address, TlsTrust()) == "tls_not_spoken"


@pytest.mark.parametrize(
    ("name", "begins", "ends", "code"),
    [
        ("127.0.0.1", -2, -1, "tls_expired"),
        ("127.0.0.1", 1, 2, "tls_not_yet_valid"),
        ("127.0.0.2", -1, 1, "tls_wrong_name"),
        ("rendezvous.example", -1, 1, "tls_wrong_name"),
    ],
)
async def test_certificates_that_the_system_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    begins: int,
    ends: int,
    code: str,
) -> None:
    dates = {"not_before": NOW + begins * DAY, "not_after": NOW + ends * DAY}
    context = certified(tmp_path, monkeypatch, name, **dates)
    async with served(answering(), context) as address:
        assert await code_of(address, TlsTrust()) == code


async def test_an_authority_that_the_system_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = certified(tmp_path, monkeypatch)
    certified(tmp_path, monkeypatch)
    async with served(answering(), context) as address:
        assert await code_of(address, TlsTrust()) == "tls_untrusted"
        assert await code_of(address, TlsTrust(("0" * 64,))) == "tls_wrong_fingerprint"


async def test_how_long_a_certificate_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = certified(tmp_path, monkeypatch, not_after=NOW + 20 * DAY)
    async with served(answering(), context) as address:
        contact = await probes.contact(address, TlsTrust())
    now = time.time()
    assert registry.reachable(contact).code == "registry_reached"
    assert registry.certificate(contact, now).code == "tls_trusted"
    found = registry.certificate(contact, now + 10 * 86_400)
    assert (found.severity, found.code) == (Severity.WARNING, "tls_expires_soon")
    assert "in 9 days" in found.text


@pytest.mark.parametrize(
    ("ahead", "code", "way"),
    [
        (-3600, "clock_wrong", "ahead of"),
        (3600, "clock_wrong", "behind"),
        (100, "clock_off", "behind"),
        (5, "clock_right", ""),
    ],
)
async def test_clocks_that_differ(ahead: int, code: str, way: str) -> None:
    async with served(answering(ahead)) as address:
        found = registry.clock(await probes.contact(address, None))
    assert found.code == code
    assert way in found.text


@pytest.mark.parametrize("told", ["soon", True, None, []])
async def test_a_registry_that_does_not_tell_its_time(told: object) -> None:
    async with served(answering(time=told)) as address:
        contact: Contact = await probes.contact(address, None)
    assert registry.clock(contact).code == "clock_unknown"
