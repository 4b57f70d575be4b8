"""Lists in replies, cut so that every client can read them: by bytes, since rows may be long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Bytes of a list in a reply: half of what the oldest clients accept as a reply.
MAX_REPLY: Final = 512 << 10
#: Rows of a list in a reply.
MAX_LISTED: Final = 2_000

R = TypeVar("R")
_encode = msgspec.json.Encoder().encode


def size(row: object) -> int:
    """Bytes of a row in a list."""
    return len(_encode(row)) + 1


def page(rows: Iterable[R], *, room: int = MAX_REPLY) -> tuple[list[R], bool]:
    """The first rows that fit into a reply, at least one, and whether there are more."""
    taken: list[R] = []
    for row in rows:
        room -= size(row)
        if taken and (room < 0 or len(taken) >= MAX_LISTED):
            return taken, True
        taken.append(row)
    return taken, False
