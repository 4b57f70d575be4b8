"""The driver's session as a machine: bytes and descriptors in, events and bytes out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.client import _frames as f
from pilotstack.client._session import (
    Accepted,
    Answer,
    Event,
    Greeted,
    Opened,
    Pending,
    Received,
    Session,
)
from pilotstack.errors import InternalError, InvalidArgument, Unavailable
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = Address(0, 42)
END = f.endpoint(ADDRESS, 80)


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


def sent(session: Session) -> list[bytes]:
    """The frames that leave, without their lengths."""
    found = []
    while (frame := session.out.next()) is not None:
        found.append(bytes(frame[f.LENGTH_LEN :]))
        session.out.sent(len(frame))
    return found


def opened(pending: Pending, conn: int = 7) -> bytes:
    return f.frame(f.STREAM_OPENED, f.u32(pending.id), f.u32(conn), END)


def accepted(conn: int = 7) -> bytes:
    return f.frame(f.STREAM_ACCEPTED, f.u16(80), f.u32(conn), END)


def test_frames_cut_anywhere_mean_the_same(fd: int) -> None:
    session = Session()
    pending = session.ask(f.OPEN_STREAM)
    data = (
        f.frame(f.HELLO_OK, f.u16(1))
        + opened(pending)
        + f.frame(f.RECV_FROM, END, f.u16(80), b"datagram")
    )
    events: list[Event] = []
    for position in range(len(data)):
        # The descriptor comes beside the first byte of its frame.
        fds = [fd] if position == len(f.frame(f.HELLO_OK, f.u16(1))) else []
        events += session.receive(data[position : position + 1], fds)
    greeted, answer, received = events
    assert greeted == Greeted(is_extended=True)
    assert isinstance(answer, Answer)
    assert isinstance(answer.value, Opened)
    assert answer.value.fd == fd
    assert isinstance(received, Received)
    assert received.datagram.data == b"datagram"


def test_a_cancelled_dial_is_cancelled_and_its_descriptor_closed(fd: int) -> None:
    session = Session()
    pending = session.ask(f.OPEN_STREAM)
    assert len(sent(session)) == 1
    session.cancel(pending)
    assert sent(session) == [bytes((f.CANCEL_REQUEST,)) + f.u32(pending.id)]
    assert list(session.receive(opened(pending), [fd])) == []
    assert not is_open(fd)
    assert sent(session) == [bytes((f.ABORT_STREAM,)) + f.u32(7)]


def test_a_request_of_which_nothing_left_is_not_sent() -> None:
    session = Session()
    session.cancel(session.ask(f.OPEN_STREAM))
    assert sent(session) == []


def test_an_answer_without_its_request_is_dropped() -> None:
    session = Session()
    pending = session.ask(f.REQUEST, b"\x0d")
    sent(session)
    session.cancel(pending)
    other = session.ask(f.REQUEST, b"\x0d")
    reply = f.frame(f.REPLY, f.u32(pending.id), b"\x0e{}")
    right = f.frame(f.REPLY, f.u32(other.id), b'\x0e{"a":1}')
    assert list(session.receive(reply + right, [])) == [Answer(other.id, b'\x0e{"a":1}')]


@pytest.mark.parametrize(
    ("command", "answer", "freed"),
    [
        (f.LISTEN_STREAMS, f.LISTENING, bytes((f.UNBIND,)) + f.u16(80)),
        (f.BIND_DATAGRAMS, f.DATAGRAMS_BOUND, bytes((f.UNBIND_DATAGRAMS,)) + f.u16(80)),
    ],
)
@pytest.mark.parametrize("known", [0, 80])
def test_a_port_that_nobody_waits_for_is_freed(
    command: int, answer: int, freed: bytes, known: int
) -> None:
    session = Session()
    pending = session.ask(command, f.u16(known), port=known)
    sent(session)
    session.cancel(pending)
    # A port that is known is freed before whatever is asked next.
    frames = sent(session)
    list(session.receive(f.frame(answer, f.u32(pending.id), f.u16(80)), []))
    frames += sent(session)
    assert frames
    assert all(frame.endswith(freed) for frame in frames)


def test_a_descriptor_that_did_not_arrive_costs_its_stream_only(fd: int) -> None:
    session = Session()
    first, second = session.ask(f.OPEN_STREAM), session.ask(f.OPEN_STREAM)
    sent(session)
    (answer,) = session.receive(opened(first, 1), [], is_cut=True)
    assert isinstance(answer, Answer)
    assert isinstance(answer.error, Unavailable)
    assert list(session.receive(accepted(2), [], is_cut=True)) == []
    (answer,) = session.receive(opened(second, 3), [fd])
    assert isinstance(answer, Answer)
    assert answer.error is None
    assert session.lost == 2
    assert sent(session) == [bytes((f.ABORT_STREAM,)) + f.u32(conn) for conn in (1, 2)]


def test_a_refused_stream_is_reset(fd: int) -> None:
    session = Session()
    (event,) = session.receive(accepted(), [fd])
    assert isinstance(event, Accepted)
    session.refuse(event)
    assert not is_open(fd)
    assert sent(session) == [bytes((f.ABORT_STREAM,)) + f.u32(7)]


def test_a_daemon_may_refuse_the_session() -> None:
    failure = b'{"code":"unavailable","message":"full","hint":"later"}'
    (greeted,) = Session().receive(f.frame(f.FAILURE, f.u32(0), failure), [])
    assert isinstance(greeted, Greeted)
    assert isinstance(greeted.error, Unavailable)
    (greeted,) = Session().receive(f.frame(f.ERROR, b"\0\0unknown command: 0x60"), [])
    assert greeted == Greeted(is_extended=False)
    (greeted,) = Session().receive(f.frame(f.ERROR, b"\0\0too many drivers"), [])
    assert isinstance(greeted, Greeted)
    assert isinstance(greeted.error, Unavailable)


def test_why_streams_broke_is_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotstack.client._session._MAX_FAILURES", 3)
    session = Session()
    for conn in range(5):
        list(session.receive(f.frame(f.STREAM_FAILED, f.u32(conn), b"\x04"), []))
    assert session.failures == dict.fromkeys((2, 3, 4), "timeout")


def test_descriptors_without_frames_end_the_session() -> None:
    session = Session()
    for _ in range(256):
        list(session.receive(b"", [], is_cut=True))
    with pytest.raises(InternalError):
        list(session.receive(b"", [], is_cut=True))


@given(st.binary(max_size=200))
def test_bytes_that_mean_nothing_are_events_or_one_error(data: bytes) -> None:
    session = Session()
    try:
        list(session.receive(data, []))
        for command in range(0x60, 0x72):
            list(session.receive(f.frame(command, data), [], is_cut=True))
    except InternalError:
        pass


@pytest.mark.parametrize("size", [f.MAX_FRAME, f.MAX_FRAME + 1])
def test_an_oversized_request_is_refused_before_it_is_sent(size: int) -> None:
    session = Session()
    with pytest.raises(InvalidArgument):
        session.ask(f.REQUEST, b"x" * size)
    assert session.out.next() is None
