"""Outgoing frames: the daemon gets whole frames despite cancellation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.client._outbox import Outbox
from pilotstack.ipc import codes
from pilotstack.ipc.frames import frame


def frames_of(data: bytes) -> list[bytes]:
    """The bodies of whole frames."""
    bodies = []
    while data:
        length = int.from_bytes(data[: codes.LENGTH_LEN])
        bodies.append(data[codes.LENGTH_LEN : codes.LENGTH_LEN + length])
        assert len(bodies[-1]) == length, "the last frame is cut off"
        data = data[codes.LENGTH_LEN + length :]
    return bodies


def take(out: Outbox, count: int) -> bytes:
    """What leaves when the socket takes so many bytes."""
    left = b""
    while count and (data := out.next()) is not None:
        part = bytes(data[:count])
        out.sent(len(part))
        left += part
        count -= len(part)
    return left


FRAME = frame(codes.REQUEST, b"first")


@pytest.mark.parametrize("cut", range(len(FRAME) + 1))
def test_a_cancelled_frame_is_sent_whole_or_not_at_all(cut: int) -> None:
    out = Outbox()
    ticket = out.put(FRAME)
    left = take(out, cut)
    assert out.withdraw(ticket) == (cut == 0)
    out.put(frame(codes.REQUEST, b"second"))
    left += take(out, 1000)
    expected = [b"\x62first"] if cut else []
    assert frames_of(left) == [*expected, b"\x62second"]


def test_small_frames_leave_in_one_write() -> None:
    out = Outbox()
    small = [out.put(frame(codes.REQUEST, bytes((number,)) * 100)) for number in range(5)]
    large = out.put(frame(codes.REQUEST, bytes(20_000)))
    batch = out.next()
    assert batch is not None
    assert [body[1] for body in frames_of(bytes(batch))] == [0, 1, 2, 3, 4]
    out.sent(len(batch) - 1)
    assert [out.is_out(ticket) for ticket in small] == [True] * 4 + [False]
    out.sent(1)
    assert not out.is_out(large)
    assert len(out.next() or b"") > 20_000


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.binary(max_size=8)),
            st.tuples(st.just("take"), st.integers(0, 12)),
            st.tuples(st.just("withdraw"), st.integers(0, 20)),
        )
    )
)
def test_frames_are_sent_whole_and_in_order(steps: list[tuple[str, bytes | int]]) -> None:
    out, left = Outbox(), b""
    given_: dict[int, bytes] = {}
    withdrawn: set[int] = set()
    for step, value in steps:
        if isinstance(value, bytes):
            given_[out.put(frame(codes.REQUEST, value))] = b"\x62" + value
        elif step == "take":
            left += take(out, value)
        elif out.withdraw(value):
            withdrawn.add(value)
    left += take(out, 1 << 20)
    assert all(out.is_out(ticket) for ticket in given_)
    assert frames_of(left) == [body for ticket, body in given_.items() if ticket not in withdrawn]
