"""Names, addresses and routes of hosts."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import pytest

from pilotstack import _resolving, _serving
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "host",
    ["a..example", ".example", "x" * 64 + ".example", "\udcff", "a b", "a\nb", "x." * 130, "a/b"],
)
def test_invalid_hosts_are_refused_at_once(host: str) -> None:
    with pytest.raises(InvalidArgument):
        _serving.split_address(f"{host}:9000")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[fd77::1]:9000", ("fd77::1", 9000)),
        ("fd77::1:9000", ("fd77::1", 9000)),
        ("[fe80::1%eth0]:9000", ("fe80::1%eth0", 9000)),
        ("example.:9000", ("example.", 9000)),
        ("bücher.example:1", ("bücher.example", 1)),
        (":9000", ("127.0.0.1", 9000)),
    ],
)
def test_valid_hosts_are_accepted(text: str, expected: tuple[str, int]) -> None:
    assert _serving.split_address(text) == expected


@pytest.mark.parametrize("text", ["host", "host:", "host:x", "host:65536", "h:" + "9" * 5000])
def test_texts_without_a_port_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not an address"):
        _serving.split_address(text)


class Resolver:
    """Stands for the system's."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.may_answer = threading.Event()
        self.asked = threading.Event()
        self.questions = 0

    def __call__(self, name: str, port: object, **options: Any) -> list[Any]:
        self.questions += 1
        self.asked.set()
        self.may_answer.wait(30)
        if not self.addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in self.addresses]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver("192.0.2.9", "fd77::1", "fd77::1")
    monkeypatch.setattr("pilotstack._resolving.sockets.getaddrinfo", resolver)
    yield resolver
    resolver.may_answer.set()
    for thread in threading.enumerate():
        if thread.name == "pilot-resolver":
            thread.join()


async def test_concurrent_lookups_share_one_query(resolver: Resolver) -> None:
    found: list[list[str]] = []

    async def ask() -> None:
        found.append(await _resolving.resolve("host.example"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
        await anyio.to_thread.run_sync(resolver.asked.wait)
        await anyio.wait_all_tasks_blocked()
        resolver.may_answer.set()
    assert found == [["192.0.2.9", "fd77::1"]] * 5
    assert resolver.questions == 1


async def test_a_lookup_can_be_cancelled_while_the_resolver_hangs(resolver: Resolver) -> None:
    with anyio.move_on_after(0.01) as scope:
        await _resolving.resolve("hangs.example")
    assert scope.cancelled_caught
    resolver.may_answer.set()


async def test_hanging_lookups_are_bounded(resolver: Resolver) -> None:
    for number in range(_resolving.MAX_LOOKUPS):
        with anyio.move_on_after(0.001):
            await _resolving.resolve(f"hangs{number}.example")
    with pytest.raises(OSError, match="too many names"):
        await _resolving.resolve("one-more.example")
    # Asking again for one of them is no new question.
    with anyio.move_on_after(0.001) as scope:
        await _resolving.resolve("hangs0.example")
    assert scope.cancelled_caught
    resolver.may_answer.set()


async def test_a_name_without_a_thread_for_it_can_be_looked_up_later(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver.may_answer.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(socket.gaierror, match="new thread"):
            await _resolving.resolve("host.example")
    assert await _resolving.resolve("host.example") == ["192.0.2.9", "fd77::1"]


async def test_an_unknown_name_raises(resolver: Resolver) -> None:
    resolver.addresses = ()
    resolver.may_answer.set()
    with pytest.raises(socket.gaierror):
        await _resolving.resolve("none.example")


async def test_addresses_need_no_resolver() -> None:
    assert await _resolving.resolve("192.0.2.1") == ["192.0.2.1"]
    assert await _resolving.resolve("fd77:0::1") == ["fd77::1"]


async def test_the_first_address_that_answers_is_connected(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.addresses = ("127.0.0.2", "127.0.0.3", "127.0.0.1")
    resolver.may_answer.set()
    monkeypatch.setattr(_resolving, "ATTEMPT_DELAY", 0.01)
    connect = anyio.connect_tcp

    async def fake(address: str, port: int) -> anyio.abc.SocketStream:
        if address == "127.0.0.2":
            await anyio.sleep_forever()
        if address == "127.0.0.3":
            raise ConnectionRefusedError(address)
        return await connect(address, port)

    monkeypatch.setattr(anyio, "connect_tcp", fake)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stream = await _resolving.connect_tcp("host.example", listening.getsockname()[1])
        async with stream:
            assert stream.extra(anyio.abc.SocketAttribute.remote_address)[0] == "127.0.0.1"


async def test_the_error_says_that_no_address_answers(resolver: Resolver) -> None:
    resolver.may_answer.set()
    resolver.addresses = ("127.0.0.1",)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="attempts failed") as caught:
            await _resolving.connect_tcp("host.example", closed.getsockname()[1])
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        resolver.addresses = ("127.0.0.1", "127.0.0.2")
        with pytest.raises(OSError, match=r"no address of host\.example answers"):
            await _resolving.connect_tcp("host.example", closed.getsockname()[1])


def test_address_families_are_interleaved() -> None:
    mixed = ["fd77::1", "fd77::2", "192.0.2.1"]
    assert _resolving._alternating(mixed) == ["fd77::1", "192.0.2.1", "fd77::2"]
    assert _resolving._alternating([]) == []


def test_the_source_of_datagrams() -> None:
    assert _resolving.source_towards("127.0.0.1") == "127.0.0.1"
    assert _resolving.source_towards("not an address") is None


def test_ipv4_seen_by_a_dual_stack_socket() -> None:
    assert _resolving.canonical("::ffff:192.0.2.1") == "192.0.2.1"
    assert _resolving.canonical("fd77::1") == "fd77::1"
    assert _resolving.canonical("192.0.2.1") == "192.0.2.1"


def test_a_server_binds_ipv4_alone_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no such family")

    monkeypatch.setattr(socket, "socket", refuse)
    assert _resolving.any_host() == "0.0.0.0"


def test_a_port_in_use_is_named() -> None:
    listening = _serving.listen("127.0.0.1", 0)
    with listening, pytest.raises(FileExistsError, match=str(listening.getsockname()[1])):
        _serving.listen("127.0.0.1", listening.getsockname()[1])
    with pytest.raises(InvalidArgument, match=r"no address 192\.0\.2\.1"):
        _serving.listen("192.0.2.1", 0)
