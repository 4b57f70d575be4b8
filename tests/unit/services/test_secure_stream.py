"""Handshakes of the secure channel, with peers that are honest and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.unit.services import vectors
from tests.unit.services.streams import Pipe, pipe

from pilotstack._core import ed25519_public_key
from pilotstack.client import PilotAttribute
from pilotstack.services import secure
from pilotstack.services.secure import Credentials, SecureError, SecureStream, Suite
from pilotstack.services.secure.codec import Role
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

VECTORS = vectors.of("secure_channel")
TEXTS = [bytes.fromhex(text) for text in VECTORS["plaintexts_hex"]]
SEEDS = {1: b"1" * 32, 2: b"2" * 32}


async def key_of(node: int) -> bytes | None:
    return ed25519_public_key(SEEDS[node]) if node in SEEDS else None


def credentials(node: int, seed: bytes | None = None) -> Credentials:
    return Credentials(node, seed or SEEDS[node], key_of)


class Overlay(Pipe):
    """An end that knows its peer's address, as streams of the overlay do."""

    @property
    def extra_attributes(self) -> Any:
        return {PilotAttribute.remote_address: lambda: self.remote_address}


def overlay() -> tuple[Overlay, Overlay]:
    """Node 1 dials node 2."""
    ours, theirs = pipe(
        dialler=SocketAddress(Address(0, 1), 50_000), server=SocketAddress(Address(0, 2), 443)
    )
    for end in (ours, theirs):
        end.__class__ = Overlay
    return ours, theirs  # type: ignore[return-value]


async def both(
    client: Callable[[Pipe], Awaitable[SecureStream]],
    server: Callable[[Pipe], Awaitable[SecureStream]],
    ends: tuple[Pipe, Pipe] | None = None,
) -> tuple[SecureStream | SecureError, SecureStream | SecureError]:
    """What both ends come to. Who is refused ends its stream."""
    results: dict[str, SecureStream | SecureError] = {}

    async def take(name: str, wrap: Callable[[Pipe], Awaitable[SecureStream]], end: Pipe) -> None:
        try:
            results[name] = await wrap(end)
        except SecureError as error:
            results[name] = error
            await end.aclose()

    ours, theirs = ends or pipe()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, "client", client, ours)
        tasks.start_soon(take, "server", server, theirs)
    return results["client"], results["server"]


async def channels(**options: Any) -> tuple[SecureStream, SecureStream]:
    async def client(end: Pipe) -> SecureStream:
        return await secure.wrap_client(end, **options)

    ours, theirs = await both(client, secure.wrap_server)
    assert isinstance(ours, SecureStream)
    assert isinstance(theirs, SecureStream)
    return ours, theirs


async def read(end: Pipe, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await end.receive(count - len(data))
    return data


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("role", Role)
async def test_every_byte_is_that_of_others(
    role: Role, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = ("server", "client") if role is Role.SERVER else ("client", "server")
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS[f"{own}_private_hex"]))
    monkeypatch.setattr(X25519PrivateKey, "generate", lambda: private)
    known = VECTORS[suite.value]
    ours, theirs = pipe()
    async with ours, theirs:
        await theirs.send(bytes.fromhex(known[f"{other}_stream_hex"]))
        if role is Role.SERVER:
            # The first frame tells the suite.
            channel = await secure.wrap_server(ours)
        else:
            channel = await secure.wrap_client(ours, suite=suite)
        expected = b"".join(TEXTS)
        found = b""
        while len(found) < len(expected):
            found += await channel.receive()
        assert found == expected
        assert channel.suite is suite
        written = bytes.fromhex(known[f"{own}_stream_hex"])
        for text in TEXTS:
            if text:
                await channel.send(text)
            else:
                # Ours sends no empty frames; others may.
                await ours.send(channel._channel.seal(text))
        assert await read(theirs, len(written)) == written


@pytest.mark.parametrize("suite", [None, *Suite])
async def test_ends_of_ours_find_each_other(suite: Suite | None) -> None:
    ours, theirs = await channels(suite=suite)
    async with ours, theirs:
        await ours.send(b"hello")
        assert await theirs.receive() == b"hello"
        await theirs.send(b"world")
        assert await ours.receive() == b"world"
        assert ours.suite is theirs.suite is (suite or Suite.G1)
        assert ours.extra(secure.SecureAttribute.suite) is ours.suite
        assert ours.peer_node is None


async def test_a_server_may_speak_first() -> None:
    ours, theirs = await channels()
    async with ours, theirs:
        await theirs.send(b"welcome")
        assert await ours.receive() == b"welcome"


async def test_nothing_on_the_wire_is_readable() -> None:
    raw: list[bytes] = []

    class Recorded(Pipe):
        async def send(self, item: bytes) -> None:
            raw.append(bytes(item))
            await super().send(item)

    ours, theirs = pipe()
    for end in (ours, theirs):
        end.__class__ = Recorded
    client, server = await both(secure.wrap_client, secure.wrap_server, (ours, theirs))
    assert isinstance(client, SecureStream)
    assert isinstance(server, SecureStream)
    async with client, server:
        text = b"a secret that nobody else reads"
        await client.send(text)
        await server.send(await server.receive())
        assert await client.receive() == text
    wire = b"".join(raw)
    assert not any(text[begin : begin + 6] in wire for begin in range(len(text) - 6))


async def test_large_texts_are_cut_into_frames() -> None:
    ours, theirs = await channels()
    text = bytes(range(256)) * 3000
    async with ours, theirs, anyio.create_task_group() as tasks:
        tasks.start_soon(ours.send, text)
        found = b""
        while len(found) < len(text):
            found += await theirs.receive(1000)
        assert found == text


async def test_a_stream_that_ends_within_a_frame_is_cut() -> None:
    ours, theirs = await channels()
    async with ours, theirs:
        frame = ours._channel.seal(b"hello")
        await ours._stream.send(frame[:-1])
        await ours._stream.send_eof()
        for _ in range(2):
            with pytest.raises(SecureError) as refused:
                await theirs.receive()
            assert refused.value.reason == "truncated"
        with pytest.raises(SecureError):
            await theirs.send(b"x")


async def test_a_cancelled_send_ends_the_direction() -> None:
    ours, theirs = await channels()
    async with ours, theirs:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def fill() -> None:
                    while True:
                        await ours.send(b"x")

                tasks.start_soon(fill)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        with pytest.raises(SecureError) as refused:
            await ours.send(b"y")
        assert refused.value.reason == "torn"


async def test_replayed_bytes_of_a_client_are_refused() -> None:
    for suite in Suite:
        ours, theirs = pipe()
        async with ours, theirs:
            await ours.send(bytes.fromhex(VECTORS[suite.value]["client_stream_hex"]))
            channel = await secure.wrap_server(theirs)
            with pytest.raises(SecureError) as refused:
                await channel.receive()
            assert refused.value.reason == "unauthentic"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.0\r\n\r\n", bytes(32)])
async def test_what_is_no_handshake_is_refused(sent: bytes) -> None:
    for wrap in (secure.wrap_client, secure.wrap_server):
        ours, theirs = pipe()
        async with ours, theirs:
            if sent:
                await ours.send(sent)
            await ours.send_eof()
            with pytest.raises(SecureError) as refused:
                await wrap(theirs)
            assert refused.value.reason == "handshake"


async def test_a_peer_that_says_nothing_is_not_waited_for() -> None:
    ours, theirs = pipe()
    async with ours, theirs:
        with pytest.raises(SecureError) as refused:
            await secure.wrap_server(theirs, timeout=0)
        assert refused.value.reason == "handshake"


# Authentication


async def test_both_ends_prove_their_keys() -> None:
    client, server = await both(
        lambda end: secure.wrap_client(end, credentials=credentials(1)),
        lambda end: secure.wrap_server(end, credentials=credentials(2)),
        overlay(),
    )
    assert isinstance(client, SecureStream)
    assert isinstance(server, SecureStream)
    async with client, server:
        assert (client.peer_node, server.peer_node) == (2, 1)
        assert client.suite is Suite.G2
        await client.send(b"hello")
        assert await server.receive() == b"hello"


@pytest.mark.parametrize(
    ("client", "server"),
    [
        # A wrong key, a node that is not the tunnel's, one without a key.
        (credentials(1, b"3" * 32), credentials(2)),
        (credentials(2), credentials(2)),
        (Credentials(3, b"3" * 32, key_of), credentials(2)),
        (credentials(1), credentials(2, b"3" * 32)),
        (credentials(1), credentials(1)),
    ],
)
async def test_a_peer_that_is_somebody_else_is_refused(
    client: Credentials, server: Credentials
) -> None:
    results = await both(
        lambda end: secure.wrap_client(end, credentials=client),
        lambda end: secure.wrap_server(end, credentials=server),
        overlay(),
    )
    refused = [each for each in results if isinstance(each, SecureError)]
    assert {each.reason for each in refused} == {"handshake"}
    for each in results:
        if isinstance(each, SecureStream):
            await each.aclose()


async def test_an_unsigned_peer_is_refused() -> None:
    async def unsigned(end: Pipe) -> SecureStream:
        channel = await secure.wrap_client(end, suite=Suite.G2)
        await channel.send(b"hello")
        return channel

    client, server = await both(
        unsigned, lambda end: secure.wrap_server(end, credentials=credentials(2)), overlay()
    )
    assert isinstance(server, SecureError)
    assert isinstance(client, SecureStream)
    assert server.reason == "handshake"
    await client.aclose()


async def test_a_proof_is_taken_once() -> None:
    """The same key of a channel and the same proof, as who stole both would send them."""
    server_side = credentials(2)
    proof: list[Any] = []
    private = X25519PrivateKey.generate()
    own = private.public_key().public_bytes_raw()

    async def client(end: Pipe) -> SecureStream:
        await end.send(own)
        from pilotstack.services.secure.codec import Channel, agree

        shared = agree(private, await read(end, 32))
        channel = SecureStream(end, Channel(Role.CLIENT, shared, Suite.G2), None)
        await channel.receive_frame()
        if not proof:
            proof.append(credentials(1).prove(own))
        await channel.send(proof[0].encode())
        return channel

    outcomes = []
    for _ in range(2):
        ours, theirs = overlay()
        async with ours, theirs:
            results = await both(
                client, lambda end: secure.wrap_server(end, credentials=server_side), (ours, theirs)
            )
            outcomes.append(results[1])
    assert isinstance(outcomes[0], SecureStream)
    assert isinstance(outcomes[1], SecureError)
    assert "used before" in outcomes[1].message
