"""The session state machine: bytes and descriptors in, events and bytes out."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.client._session import (
    Accepted,
    Answer,
    DriverSession,
    Event,
    Greeted,
    Pending,
    Received,
)
from pilotstack.client.calls import Call, Opened
from pilotstack.errors import InternalError, InvalidArgument, Unavailable
from pilotstack.ipc import codes
from pilotstack.ipc.frames import endpoint, frame
from pilotstack.ipc.layout import U16, U32
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = Address(0, 42)
END = endpoint(ADDRESS, 80)
DIAL = Call(codes.OPEN_STREAM, b"", bytes)
INFO = Call(codes.REQUEST, b"\x0d", bytes)


@pytest.fixture
def fd() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(writing)
    yield reading
    if is_open(reading):
        os.close(reading)


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def sent(session: DriverSession) -> list[bytes]:
    """The frames that leave, without their lengths."""
    found = []
    while (data := session.out.next()) is not None:
        session.out.sent(len(data))
        while data:
            end = codes.LENGTH_LEN + int.from_bytes(data[: codes.LENGTH_LEN])
            found.append(bytes(data[codes.LENGTH_LEN : end]))
            data = data[end:]
    return found


def opened(pending: Pending, conn: int = 7) -> bytes:
    return frame(codes.STREAM_OPENED, U32.pack(pending.id), U32.pack(conn), END)


def accepted(conn: int = 7) -> bytes:
    return frame(codes.STREAM_ACCEPTED, U16.pack(80), U32.pack(conn), END)


def test_frames_split_anywhere_decode_the_same(fd: int) -> None:
    session = DriverSession()
    pending = session.ask(DIAL)
    data = (
        frame(codes.HELLO_OK, U16.pack(1))
        + opened(pending)
        + frame(codes.RECV_FROM, END, U16.pack(80), b"datagram")
    )
    events: list[Event] = []
    for position in range(len(data)):
        # The descriptor comes beside the first byte of its frame.
        fds = [fd] if position == len(frame(codes.HELLO_OK, U16.pack(1))) else []
        events += session.receive(data[position : position + 1], fds)
    greeted, answer, received = events
    assert greeted == Greeted(is_extended=True)
    assert isinstance(answer, Answer)
    assert isinstance(answer.value, Opened)
    assert answer.value.fd == fd
    assert isinstance(received, Received)
    assert received.datagram.data == b"datagram"


def test_a_cancelled_dial_is_cancelled_and_its_descriptor_closed(fd: int) -> None:
    session = DriverSession()
    pending = session.ask(DIAL)
    assert len(sent(session)) == 1
    session.cancel(pending)
    assert sent(session) == [bytes((codes.CANCEL_REQUEST,)) + U32.pack(pending.id)]
    assert list(session.receive(opened(pending), [fd])) == []
    assert not is_open(fd)
    assert sent(session) == [bytes((codes.ABORT_STREAM,)) + U32.pack(7)]


def test_a_cancelled_unsent_request_is_not_sent() -> None:
    session = DriverSession()
    session.cancel(session.ask(DIAL))
    assert sent(session) == []


def test_an_answer_without_its_request_is_dropped() -> None:
    session = DriverSession()
    pending = session.ask(INFO)
    sent(session)
    session.cancel(pending)
    other = session.ask(INFO)
    reply = frame(codes.REPLY, U32.pack(pending.id), b"\x0e{}")
    right = frame(codes.REPLY, U32.pack(other.id), b'\x0e{"a":1}')
    assert list(session.receive(reply + right, [])) == [Answer(other.id, b'{"a":1}')]


@pytest.mark.parametrize(
    ("command", "answer", "freed"),
    [
        (codes.LISTEN_STREAMS, codes.LISTENING, bytes((codes.UNBIND,)) + U16.pack(80)),
        (
            codes.BIND_DATAGRAMS,
            codes.DATAGRAMS_BOUND,
            bytes((codes.UNBIND_DATAGRAMS,)) + U16.pack(80),
        ),
    ],
)
@pytest.mark.parametrize("known", [0, 80])
def test_a_port_of_a_cancelled_request_is_freed(
    command: int, answer: int, freed: bytes, known: int
) -> None:
    session = DriverSession()
    pending = session.ask(Call(command, U16.pack(known), bytes, known))
    sent(session)
    session.cancel(pending)
    # A port that is known is freed before whatever is asked next.
    bodies = sent(session)
    list(session.receive(frame(answer, U32.pack(pending.id), U16.pack(80)), []))
    bodies += sent(session)
    assert bodies
    assert all(body.endswith(freed) for body in bodies)


def test_a_missing_descriptor_costs_only_its_stream(fd: int) -> None:
    session = DriverSession()
    first, second = session.ask(DIAL), session.ask(DIAL)
    sent(session)
    (answer,) = session.receive(opened(first, 1), [], is_cut=True)
    assert isinstance(answer, Answer)
    assert isinstance(answer.error, Unavailable)
    assert list(session.receive(accepted(2), [], is_cut=True)) == []
    (answer,) = session.receive(opened(second, 3), [fd])
    assert isinstance(answer, Answer)
    assert answer.error is None
    assert session.lost == 2
    assert sent(session) == [bytes((codes.ABORT_STREAM,)) + U32.pack(conn) for conn in (1, 2)]


def test_a_refused_stream_is_reset(fd: int) -> None:
    session = DriverSession()
    (event,) = session.receive(accepted(), [fd])
    assert isinstance(event, Accepted)
    session.refuse(event)
    assert not is_open(fd)
    assert sent(session) == [bytes((codes.ABORT_STREAM,)) + U32.pack(7)]


def test_a_daemon_may_refuse_the_session() -> None:
    failure = b'{"code":"unavailable","message":"full","hint":"later"}'
    (greeted,) = DriverSession().receive(frame(codes.FAILURE, U32.pack(0), failure), [])
    assert isinstance(greeted, Greeted)
    assert isinstance(greeted.error, Unavailable)
    (greeted,) = DriverSession().receive(frame(codes.ERROR, b"\0\0unknown command: 0x60"), [])
    assert greeted == Greeted(is_extended=False)
    (greeted,) = DriverSession().receive(frame(codes.ERROR, b"\0\0too many drivers"), [])
    assert isinstance(greeted, Greeted)
    assert isinstance(greeted.error, Unavailable)


def test_stored_close_reasons_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotstack.client._session._MAX_FAILURES", 3)
    session = DriverSession()
    for conn in range(5):
        list(session.receive(frame(codes.STREAM_FAILED, U32.pack(conn), b"\x04"), []))
    assert session.failures == dict.fromkeys((2, 3, 4), "timeout")


def test_descriptors_without_frames_end_the_session() -> None:
    session = DriverSession()
    for _ in range(256):
        list(session.receive(b"", [], is_cut=True))
    with pytest.raises(InternalError):
        list(session.receive(b"", [], is_cut=True))


@given(st.binary(max_size=200))
def test_random_bytes_give_events_or_one_error(data: bytes) -> None:
    session = DriverSession()
    with suppress(InternalError):
        for body in (data, *(frame(command, data) for command in range(0x60, 0x72))):
            assert all(isinstance(e, Event) for e in session.receive(body, [], is_cut=True))


@pytest.mark.parametrize("size", [codes.MAX_FRAME, codes.MAX_FRAME + 1])
def test_an_oversized_request_is_refused_before_it_is_sent(size: int) -> None:
    session = DriverSession()
    with pytest.raises(InvalidArgument):
        session.ask(Call(codes.REQUEST, b"x" * size, bytes))
    assert session.out.next() is None
