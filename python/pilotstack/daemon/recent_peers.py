"""Peers that a node talked to lately, stored beside its identity. After a restart, which usually
changes the UDP port, the node contacts them, so that peers of older generations learn its
endpoint."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack import _events, _files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = _events.get_logger(__name__)

#: Peers that are remembered at most.
MAX_PEERS: Final = 64
_MAX_FILE: Final = 1 << 16
_MAX_ID: Final = (1 << 32) - 2


class RecentPeers:
    """The peers of one node, the latest last.

    Args:
        path: their file; ``None`` to store nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._ids = dict.fromkeys(self._load())
        self._saved = list(self._ids)

    @property
    def ids(self) -> list[int]:
        """Their ids."""
        return list(self._ids)

    def note(self, peers: Iterable[int]) -> None:
        """Adds peers that have a session now."""
        for peer in peers:
            if peer not in self._ids:
                self._ids[peer] = None
        for peer in list(self._ids)[:-MAX_PEERS]:
            del self._ids[peer]

    def save(self) -> None:
        """Writes the file if the peers changed. A failure is logged; it only delays
        reconnection."""
        if self._path is None or self._saved == self.ids:
            return
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(msgspec.json.encode({"peers": self.ids}))
            temporary.replace(self._path)
        except OSError as error:
            log.warning("peers_not_stored", path=str(self._path), error=str(error))
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._saved = self.ids

    def _load(self) -> list[int]:
        if self._path is None:
            return []
        try:
            data = _files.read_regular(self._path, _MAX_FILE)
            found = msgspec.json.decode(data)["peers"]
            return [peer for peer in found if type(peer) is int and 0 < peer <= _MAX_ID][
                -MAX_PEERS:
            ]
        except (OSError, msgspec.DecodeError, ValueError, KeyError, TypeError, RecursionError):
            return []
