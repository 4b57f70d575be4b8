"""Public interface: targets, names, representations, and the same calls in both SDKs."""

from __future__ import annotations

import errno
import inspect
import math
import subprocess
import sys
import traceback
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fake_daemon import FakeDaemon

import pilotstack
from pilotstack import sync
from pilotstack.client import calls
from pilotstack.errors import InvalidArgument, NotFound, StreamBroken, Throttled
from pilotstack.ipc import codes, frames
from pilotstack.types import Address, Datagram, SocketAddress, parse_host, parse_target

ADDRESS = Address(0, 42)

#: What only one SDK has, and why.
ONLY_ASYNC = {
    "Driver": {"aclose"},
    "Listener": {"aclose", "extra", "extra_attributes"},
    "DatagramSocket": {"aclose", "extra", "extra_attributes"},
}
ONLY_SYNC = {"Driver": {"close"}, "Listener": {"close"}, "DatagramSocket": {"close"}}
#: Parameters that only one SDK has. Framed streams need tasks; anyio has scopes for time limits;
#: threads are bounded where tasks are not.
OTHER_PARAMETERS = {
    "Driver": {"framed"},
    "Listener.accept": {"timeout"},
    "Listener.serve": {"task_group", "max_threads"},
    "DatagramSocket.receive": {"timeout"},
}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def parameters(function: Any) -> dict[str, tuple[Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return {each.name: (each.kind, each.default) for each in found}


@pytest.mark.parametrize("name", ["Driver", "Listener", "DatagramSocket"])
def test_both_sdks_have_the_same_calls(name: str) -> None:
    ours, theirs = getattr(pilotstack, name), getattr(sync, name)
    assert public(ours) - ONLY_ASYNC[name] == public(theirs) - ONLY_SYNC[name]
    for method in public(ours) & public(theirs):
        if not callable(getattr(ours, method)):
            continue
        other = OTHER_PARAMETERS.get(f"{name}.{method}", set())
        pair = [parameters(getattr(cls, method)) for cls in (ours, theirs)]
        mine, yours = ({k: v for k, v in each.items() if k not in other} for each in pair)
        assert mine == yours, f"{name}.{method}"


@pytest.mark.parametrize("name", ["Driver", "Listener", "DatagramSocket", "Stream"])
@pytest.mark.parametrize("sdk", [pilotstack, sync], ids=["anyio", "threads"])
def test_every_call_is_documented(sdk: Any, name: str) -> None:
    cls = getattr(sdk, name)
    ours = [each for each in cls.__mro__ if each.__module__.startswith("pilotstack")]
    own = {method for each in ours for method in vars(each) if not method.startswith("_")}
    assert own
    assert not [method for method in own if not inspect.getdoc(getattr(cls, method))]


def test_calls_have_signatures_of_their_own() -> None:
    assert str(inspect.signature(pilotstack.Driver.join_network)) == (
        "(self, network: 'int', *, token: 'str' = '') -> 'Address'"
    )
    assert inspect.iscoroutinefunction(pilotstack.Driver.info)
    assert not inspect.iscoroutinefunction(sync.Driver.info)
    assert sync.Driver.info.__doc__ == pilotstack.Driver.info.__doc__


@pytest.mark.parametrize("name", ["Driver", "dial", "listen"])
def test_both_sdks_are_constructed_alike(name: str) -> None:
    ours, theirs = parameters(getattr(pilotstack, name)), parameters(getattr(sync, name))
    for other in OTHER_PARAMETERS.get(name, ()):
        ours.pop(other, None)
    assert ours == theirs


def test_the_blocking_sdk_is_an_attribute_that_is_loaded_when_used() -> None:
    code = (
        "import sys, pilotstack; assert 'pilotstack.sync' not in sys.modules; "
        "print(pilotstack.sync.Driver.__name__, pilotstack.__version__, 'sync' in dir(pilotstack))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["Driver", pilotstack.__version__, "True"]
    with pytest.raises(AttributeError, match="nothing"):
        pilotstack.nothing  # noqa: B018


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "pilotstack", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage" in result.stdout


# Targets and other arguments


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("agent-b:80", ("agent-b", 80)),
        (("agent-b", 80), ("agent-b", 80)),
        ("42:80", (ADDRESS, 80)),
        (("42", 80), (ADDRESS, 80)),
        ("0:0000.0000.002A:80", (ADDRESS, 80)),
        (("0:0000.0000.002A", 80), (ADDRESS, 80)),
        ((ADDRESS, 80), (ADDRESS, 80)),
        (SocketAddress(ADDRESS, 80), (ADDRESS, 80)),
    ],
)
def test_every_spelling_of_a_target_is_read(
    target: Any, expected: tuple[Address | str, int]
) -> None:
    assert parse_target(target) == expected


@pytest.mark.parametrize("host", ["agent-b:99999", "agent-b:seven", "0:zz", "a:" + "b" * 10_000])
def test_a_host_with_a_colon_is_an_invalid_argument(host: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_host(host)
    assert "ports are 1 to 65535" in (refused.value.hint or "")
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "target",
    [
        *("agent-b", ":80", "agent-b:", "agent-b:0", "agent-b:65536", "agent-b:" + "9" * 10_000),
        *(("agent-b", "80"), ("", 80), ("agent-b", 0), ("agent-b", True), ("agent-b", 80, 1)),
        *((ADDRESS, 65_536), (None, 80), None, 80, b"agent-b:80", SocketAddress(ADDRESS, 0)),
    ],
)
def test_an_invalid_target_is_an_invalid_argument(target: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_target(target)
    assert "agent-b:80" in (refused.value.hint or "")
    assert len(str(refused.value)) < 200


@given(st.one_of(st.text(), st.tuples(st.text(), st.integers()), st.tuples(st.integers())))
def test_anything_is_a_target_or_an_invalid_argument(target: Any) -> None:
    try:
        host, port = parse_target(target)
    except InvalidArgument:
        return
    assert host
    assert 0 < port <= 65_535


@pytest.mark.parametrize(
    "call",
    [
        lambda: frames.port(-1),
        lambda: frames.port(65_536),
        lambda: frames.port("80"),  # type: ignore[arg-type]
        lambda: frames.port(True),
        lambda: frames.seconds(0),
        lambda: frames.seconds(math.nan),
        lambda: frames.seconds(math.inf),
        lambda: frames.seconds("1"),  # type: ignore[arg-type]
        lambda: frames.path("x" * 200),
        lambda: frames.path("a\0b"),
        lambda: frames.path(""),
        lambda: frames.path(3),  # type: ignore[arg-type]
        lambda: frames.frame(codes.REQUEST, "x"),  # type: ignore[arg-type]
        lambda: frames.dial_flags(False, []),  # type: ignore[arg-type]
        lambda: calls.raw(256, b""),
        lambda: calls.raw(-1, b""),
        lambda: calls.listen_streams(1 << 16),
        lambda: calls.bind_datagrams(-1),
        lambda: list(calls.wait_for_trust(1, -1)),
        lambda: list(calls.node_of(None)),  # type: ignore[arg-type]
        lambda: list(calls.node_of(True)),
        lambda: list(calls.broadcast(1, b"x", port=0)),
        lambda: list(calls.enroll_recovery("\ud800")),
        lambda: Address(0, "1"),  # type: ignore[arg-type]
    ],
)
def test_misuse_is_an_invalid_argument(call: Any) -> None:
    with pytest.raises(InvalidArgument):
        call()


# What can be awaited


@pytest.mark.anyio
async def test_calls_are_awaited_or_entered(tmp_path: Any) -> None:
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        async with pilotstack.Driver(daemon.path) as driver:
            async with driver.datagram() as entered:
                assert entered.port == 80
            async with await driver.datagram() as awaited:
                assert awaited.port == 80
            async with driver.listen() as listener:
                assert listener.port == 80
            async with pilotstack.listen(socket_path=daemon.path) as one_line:
                assert one_line.port == 80
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(driver.datagram)
            with pytest.raises(InvalidArgument):
                await driver.dial("agent-b")
            opening = driver.dial("agent-b:80")
            opening.close()


# What is shown


@pytest.mark.anyio
async def test_objects_have_a_readable_repr(tmp_path: Any) -> None:
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        driver = pilotstack.Driver(daemon.path)
        assert "not connected" in repr(driver)
        async with driver, driver.listen(80) as listener, driver.datagram(80) as datagrams:
            assert repr(driver) == f"<Driver {daemon.path} connected, 1 listener>"
            assert repr(listener) == "<Listener 0:0000.0000.002A:80 open>"
            assert repr(datagrams) == "<DatagramSocket port 80 open>"
            with daemon.give_stream(7):
                stream = await listener.accept()
                ends = "0:0000.0000.002A:80 -> 0:0000.0000.002A:80"
                assert repr(stream) == f"<Stream 7 {ends} open>"
                await stream.aclose()
                assert repr(stream) == f"<Stream 7 {ends} closed>"
        assert repr(driver) == f"<Driver {daemon.path} closed>"
        assert repr(listener).endswith("closed>")
        with sync.Driver(daemon.path) as blocking, blocking.listen(80) as port:
            assert repr(blocking) == f"<Driver {daemon.path} connected>"
            assert repr(port) == "<Listener port 80 connected>"
            with daemon.give_stream(8, client=-1), port.accept(timeout=20) as plain:
                assert repr(plain) == f"<Stream 8 {ends} open>"
        assert repr(blocking) == f"<Driver {daemon.path} closed>"


def test_a_datagram_does_not_show_its_contents() -> None:
    shown = repr(Datagram(b"secret", SocketAddress(ADDRESS, 80)))
    assert shown == "<Datagram of 6 bytes from 0:0000.0000.002A:80>"


def test_tracebacks_show_hints() -> None:
    for error in (NotFound("nobody", hint="look"), StreamBroken("broke", hint="look")):
        assert "hint: look" in "".join(traceback.format_exception(error))
        assert "look" not in str(error)
    assert not hasattr(Throttled("later"), "__notes__")


def test_a_broken_stream_is_a_reset_connection() -> None:
    error = StreamBroken("broke", reason="idle")
    assert isinstance(error, ConnectionResetError)
    assert isinstance(error, anyio.BrokenResourceError)
    assert (error.reason, error.code, error.errno) == (
        "idle",
        "connection_failed",
        errno.ECONNRESET,
    )
