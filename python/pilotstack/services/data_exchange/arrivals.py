"""A list of what arrived and from whom, beside the files: one line of JSON for each.

It is what quotas of senders are counted from after a restart. A line that is lost or damaged costs
the name of a sender, never a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack import _files

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Arrival", "Arrivals"]

NAME: Final = ".arrivals"
#: Bytes of the list that are read at most: 100,000 long lines.
_MAX_LIST: Final = 64 << 20
_MAX_LINE: Final = 4096


class Arrival(msgspec.Struct, frozen=True):
    """A file, or a folder, that is stored."""

    name: str
    sender: int
    address: str
    bytes: int
    sha256: str = ""
    at: float = 0.0


class Arrivals:
    """The list of one folder.

    Args:
        folder: where files arrive.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def load(self) -> dict[str, Arrival]:
        """The arrivals by name; none if the list cannot be read."""
        found: dict[str, Arrival] = {}
        decoder = msgspec.json.Decoder(Arrival)
        try:
            data = _files.read_regular(self._path, _MAX_LIST)
        except OSError:
            return found
        for line in data.splitlines():
            if len(line) <= _MAX_LINE:
                try:
                    arrival = decoder.decode(line)
                except (msgspec.DecodeError, RecursionError):
                    continue
                found[arrival.name] = arrival
        return found

    def add(self, arrival: Arrival) -> None:
        """Appends one.

        Raises:
            OSError: it could not be written.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        fd = _files.open_regular(self._path, flags)
        try:
            _files.write_all(fd, msgspec.json.encode(arrival) + b"\n")
        finally:
            os.close(fd)

    def rewrite(self, arrivals: dict[str, Arrival]) -> None:
        """Replaces the list, without files that are gone.

        Raises:
            OSError: it could not be written; the old list is unchanged.
        """
        lines = (msgspec.json.encode(each) + b"\n" for each in arrivals.values())
        _files.replace(self._path, lines)
