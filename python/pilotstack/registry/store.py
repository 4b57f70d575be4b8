"""Where the registry's state survives: a journal of changes, folded into an atomic snapshot.

The snapshot is the JSON file of whitepaper section 4.1. Beside it, ``FILE.journal`` holds one line
per change since: its CRC-32 in hex, a blank, and the node as JSON. A line that was not written
completely can only be the last one; it was never acknowledged and is dropped. Anything else that
does not check out stops the start, so that nothing is overwritten.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Protocol

import msgspec

from pilotstack.errors import InternalError, InvalidArgument
from pilotstack.registry.state import State, from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.registry.state import Node

#: Octets of journal after which it is folded into the snapshot.
FOLD_AT = 16 << 20
_BACKBONE = {"id": 0, "name": "backbone", "join_rule": "open", "members": []}


class Store(Protocol):
    """What the server needs of a store. Calls come from one worker thread at a time."""

    def load(self, now: float) -> State:
        """The state as it was last stored."""

    def append(self, nodes: Sequence[Node]) -> None:
        """Makes changed nodes durable.

        Raises:
            OSError: they are not; nothing of them is kept.
        """

    def wants_fold(self) -> bool:
        """Whether :meth:`fold` is due."""

    def fold(self, nodes: Sequence[Node], next_node: int) -> None:
        """Writes everything as a snapshot."""

    def close(self) -> None:
        """Releases the files."""


class MemoryStore:
    """Keeps nothing."""

    def load(self, now: float) -> State:
        """An empty state."""
        del now
        return State()

    def append(self, nodes: Sequence[Node]) -> None:
        """Does nothing."""

    def wants_fold(self) -> bool:
        """Never."""
        return False

    def fold(self, nodes: Sequence[Node], next_node: int) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class FileStore:
    """A snapshot file and its journal.

    Raises:
        InvalidArgument: the directory is missing or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal_path = path.with_name(path.name + ".journal")
        try:
            self._journal = os.open(
                self._journal_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise InvalidArgument(
                f"the store {path} cannot be written: {error.strerror}",
                hint="choose a directory that exists and that this user may write",
            ) from error
        self._length = 0

    def load(self, now: float) -> State:
        """Reads the snapshot, then the journal.

        Raises:
            InternalError: a file is corrupt. It is left as it is.
        """
        state = State()
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            text = b""
        if text:
            self._load_snapshot(state, text, now)
        self._load_journal(state, now)
        return state

    def _corrupt(self, path: Path, why: object) -> InternalError:
        return InternalError(
            f"the store {path} is corrupt: {why}",
            hint="restore a backup, or move the file away to start with an empty registry",
        )

    def _load_snapshot(self, state: State, text: bytes, now: float) -> None:
        try:
            snapshot = msgspec.json.decode(text)
            if not isinstance(snapshot, dict) or not isinstance(snapshot.get("nodes"), dict):
                raise ValueError("there are no nodes in it")
            for row in snapshot["nodes"].values():
                state.put(from_json(row, now))
            state.next_node = max(state.next_node, int(snapshot.get("next_node", 1)))
        except (msgspec.DecodeError, ValueError, TypeError, AttributeError) as error:
            raise self._corrupt(self._path, error) from error

    def _load_journal(self, state: State, now: float) -> None:
        text = self._journal_path.read_bytes()
        good = 0
        for line in text.splitlines(keepends=True):
            crc, _, body = line.rstrip(b"\n").partition(b" ")
            is_whole = line.endswith(b"\n") and crc == b"%08x" % zlib.crc32(body)
            if not is_whole:
                if good + len(line) < len(text):
                    raise self._corrupt(self._journal_path, f"line at octet {good}")
                break
            try:
                state.put(from_json(msgspec.json.decode(body), now))
            except (msgspec.DecodeError, ValueError, TypeError, AttributeError) as error:
                raise self._corrupt(self._journal_path, error) from error
            good += len(line)
        os.ftruncate(self._journal, good)
        self._length = good

    def append(self, nodes: Sequence[Node]) -> None:
        """Writes and syncs; on failure the journal is cut back to where it was."""
        octets = b"".join(_line(node) for node in nodes)
        try:
            written = 0
            while written < len(octets):
                written += os.pwrite(self._journal, octets[written:], self._length + written)
            os.fdatasync(self._journal)
        except OSError:
            os.ftruncate(self._journal, self._length)
            raise
        self._length += len(octets)

    def wants_fold(self) -> bool:
        """Whether the journal has grown long."""
        return self._length >= FOLD_AT

    def fold(self, nodes: Sequence[Node], next_node: int) -> None:
        """Writes the snapshot beside the old one, swaps them, then empties the journal. A crash in
        between leaves a journal that repeats what the snapshot has, which is harmless."""
        snapshot = {
            "next_node": next_node,
            "next_net": 1,
            "nodes": {str(node.node_id): to_json(node) for node in nodes},
            "networks": {"0": _BACKBONE},
            "pub_key_idx": {to_json(node)["public_key"]: node.node_id for node in nodes},
        }
        temporary = self._path.with_name(self._path.name + ".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(snapshot))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        os.ftruncate(self._journal, 0)
        self._length = 0

    def close(self) -> None:
        """Closes the journal."""
        os.close(self._journal)


def _line(node: Node) -> bytes:
    body = msgspec.json.encode(to_json(node))
    return b"%08x %s\n" % (zlib.crc32(body), body)
