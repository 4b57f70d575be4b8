"""Journal lines: an unfinished line at the end is told from a damaged one."""

from __future__ import annotations

import zlib

import pytest

from pilotstack.registry.storage import lines
from pilotstack.registry.storage.lines import Damaged, Reader

BODIES = [b'[{"t":"nodes","k":1,"v":null}]', b"[]", b'["' + b"x" * 1500 + b'"]']


def written(*bodies: bytes) -> bytes:
    return b"".join(map(lines.encode, bodies))


def written_before(*bodies: bytes) -> bytes:
    """As earlier versions did."""
    return b"".join(b"%08x %b\n" % (zlib.crc32(body), body) for body in bodies)


@pytest.mark.parametrize("write", [written, written_before])
def test_lines_of_both_kinds_are_read(write) -> None:  # type: ignore[no-untyped-def]
    text = write(*BODIES)
    reader = Reader(text)
    assert list(reader) == BODIES
    assert reader.end == len(text)


def test_a_journal_of_an_earlier_version_goes_on() -> None:
    assert list(Reader(written_before(*BODIES) + written(*BODIES))) == BODIES * 2


def test_an_earlier_version_refuses_what_it_cannot_read() -> None:
    """Its sum is right, so that it is not taken for a line that was cut off."""
    crc, _, rest = lines.encode(b"[]").rstrip(b"\n").partition(b" ")
    assert crc == b"%08x" % zlib.crc32(rest)
    assert not rest.startswith(b"[")


@pytest.mark.parametrize("write", [written, written_before])
def test_every_flipped_bit_is_noticed(write) -> None:  # type: ignore[no-untyped-def]
    text = write(BODIES[0], BODIES[1])
    for at in range(len(text)):
        for bit in range(8):
            damaged = bytearray(text)
            damaged[at] ^= 1 << bit
            with pytest.raises(Damaged):
                list(Reader(bytes(damaged)))


def test_a_line_cut_anywhere_counts_as_unfinished() -> None:
    whole = written(*BODIES)
    ends = [len(written(*BODIES[:count])) for count in range(4)]
    for length in range(len(whole)):
        reader = Reader(whole[:length])
        complete = sum(end <= length for end in ends[1:])
        assert list(reader) == BODIES[:complete]
        assert reader.end == ends[complete]


@pytest.mark.parametrize("write", [written, written_before])
def test_a_sector_that_was_never_written_is_no_damage(write) -> None:  # type: ignore[no-untyped-def]
    text = write(BODIES[0])
    start = len(text)
    text += write(BODIES[2])
    for begin in (512, 1024):
        torn = text[:begin] + bytes(512) + text[begin + 512 :]
        reader = Reader(torn)
        assert list(reader) == [BODIES[0]]
        assert reader.end == start
    # The length of the file came to the disk, and nothing of what is in it.
    assert list(Reader(text + bytes(700))) == [BODIES[0], BODIES[2]]


def test_damage_is_reported_with_its_offset() -> None:
    first = len(written(BODIES[0]))
    text = bytearray(written(*BODIES))
    text[first + 27] ^= 4
    reader = Reader(bytes(text))
    with pytest.raises(Damaged, match=f"byte {first}") as error:
        list(reader)
    assert error.value.offset == first
