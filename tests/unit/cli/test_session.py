"""The session of commands that ask a question or two, against daemons made by hand."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.support.fake_daemon import FakeDaemon

from pilotstack import Address
from pilotstack.cli.session import ControlSession, address_of
from pilotstack.errors import (
    InternalError,
    InvalidArgument,
    NotFound,
    NotRunning,
    TimedOut,
    Unavailable,
)
from pilotstack.ipc import codes
from pilotstack.ipc.frames import frame
from pilotstack.ipc.layout import U16, U32
from pilotstack.ipc.requests import GetInfo, ResolveHostname

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GREETING = frame(codes.HELLO_OK, U16.pack(1))
INFO = json.dumps({"node_id": 7, "address": "0:0000.0000.0007"}).encode()


@contextmanager
def daemon(path: Path, *answers: bytes) -> Iterator[Path]:
    """Gives these bytes as the answers to one frame each, to one driver after the other, and then
    ends."""
    place = path / "pilot.sock"
    left = list(answers)

    def serve() -> None:
        while left:
            client, _ = listening.accept()
            with client, client.makefile("rb") as file:
                while left and (length := file.read(codes.LENGTH_LEN)):
                    file.read(int.from_bytes(length))
                    client.sendall(left.pop(0))

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield place
        thread.join()


def refusal(text: str) -> bytes:
    return frame(codes.ERROR, U16.pack(1), text.encode())


class OldDaemon(FakeDaemon):
    """Knows the dialect of existing drivers alone."""

    def _answer(self, command: int, payload: bytes) -> bytes:
        if command == codes.INFO:
            return frame(codes.INFO + 1, INFO)
        return refusal(f"unknown command: 0x{command:02X}")


def test_an_answer_is_of_the_type_of_its_request(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "pilot.sock") as fake, ControlSession(fake.path) as session:
        assert session.ask(GetInfo()).node_id == 42
        assert session.ask(ResolveHostname("agent-b")).address == Address(0, 42)
        assert address_of(session, "agent-b") == Address(0, 42)
        assert address_of(session, "7") == Address(0, 7)
    assert [body[0] for body in fake.frames] == [codes.HELLO, *[codes.REQUEST] * 3]


def test_a_refusal_keeps_its_code_and_hint(tmp_path: Path) -> None:
    reason = json.dumps({"code": "not_found", "message": "no such name", "hint": "look"}).encode()
    with (
        daemon(tmp_path, GREETING, frame(codes.FAILURE, U32.pack(1), reason)) as path,
        ControlSession(path) as session,
        pytest.raises(NotFound, match="no such name") as error,
    ):
        session.ask(ResolveHostname("agent-b"))
    assert error.value.hint == "look"


def test_a_daemon_without_the_extension_is_asked_in_its_own_way(tmp_path: Path) -> None:
    with OldDaemon(tmp_path / "pilot.sock") as fake, ControlSession(fake.path) as session:
        assert session.ask(GetInfo()).node_id == 7


def test_a_daemon_that_refuses_sessions_says_why(tmp_path: Path) -> None:
    with (
        daemon(tmp_path, refusal("too many drivers")) as path,
        pytest.raises(Unavailable, match="too many drivers"),
    ):
        ControlSession(path)


def test_a_daemon_that_ends_is_not_running(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "pilot.sock") as fake, ControlSession(fake.path) as session:
        fake.end_sessions()
        with pytest.raises(NotRunning, match="went away"):
            session.ask(GetInfo())
    with pytest.raises(NotRunning, match="no daemon answers"):
        ControlSession(tmp_path / "nobody.sock")


def test_a_daemon_that_says_nothing_is_not_waited_for_without_end(tmp_path: Path) -> None:
    with (
        FakeDaemon(tmp_path / "pilot.sock", greets=False) as fake,
        pytest.raises(TimedOut, match="no answer in time"),
    ):
        ControlSession(fake.path, patience=0.05)


@pytest.mark.parametrize(
    "answer",
    [
        (codes.MAX_FRAME + 1).to_bytes(4),
        bytes(4),
        frame(codes.REPLY, U32.pack(1), bytes((codes.INFO + 1,)), b"[]"),
        frame(codes.FAILURE, U32.pack(1), b"{}"),
    ],
    ids=["too long", "empty", "another type", "no reason"],
)
def test_an_answer_that_makes_no_sense_is_a_defect_of_the_daemon(
    tmp_path: Path, answer: bytes
) -> None:
    with (
        daemon(tmp_path, GREETING, answer) as path,
        ControlSession(path) as session,
        pytest.raises(InternalError),
    ):
        session.ask(GetInfo())


def test_a_path_that_no_socket_can_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no socket can have this path"):
        ControlSession(tmp_path / "a\0b")
