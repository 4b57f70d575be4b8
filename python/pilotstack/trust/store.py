"""The trust file beside the identity: private, replaced atomically, and never overwritten if it
cannot be parsed (``docs/explanation/trust.md#what-is-kept``).
"""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pilotstack import _files
from pilotstack.errors import AlreadyExists, InvalidArgument
from pilotstack.registry.protocol import values
from pilotstack.trust.messages import MAX_JUSTIFICATION, cut
from pilotstack.trust.records import Outgoing, Pending, Revoked, Trusted
from pilotstack.trust.state import COOLDOWN, Rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pilotstack.registry.protocol.framing import Message

#: Largest file that is read, bytes: over 100,000 rows.
MAX_FILE = 1 << 25
#: The trust file of existing daemons, and their default identity files.
_SHARED = "trust.json"
_DEFAULTS = ("identity.json", "identity.key")
_Row = TypeVar("_Row")
_TABLES = ("trusted", "pending", "revoked", "outgoing")


def path_beside(identity: Path) -> Path:
    """The trust file of a node with this identity file: ``trust.json`` beside ``identity.json`` or
    ``identity.key``, as existing daemons have it, and ``NAME.trust.json`` beside ``NAME.json``, so
    that several identities can be in one directory."""
    own = identity.with_name(f"{identity.stem}.trust.json")
    is_default = identity.name == _DEFAULTS[0] or (
        # That directory may be of two nodes, or its file from an earlier version.
        identity.name == _DEFAULTS[1]
        and not own.exists()
        and not identity.with_name(_DEFAULTS[0]).exists()
    )
    return identity.with_name(_SHARED) if is_default else own


def shared_beside(identity: Path) -> Path | None:
    """The ``trust.json`` of an existing daemon whose identity file has another name: it kept its
    trust there nevertheless. ``None`` if the directory has the identity that the file belongs to,
    or this identity does not exist yet."""
    if identity.name in _DEFAULTS or not identity.exists():
        return None
    if any(identity.with_name(name).exists() for name in _DEFAULTS):
        return None
    return identity.with_name(_SHARED)


class TrustStore:
    """The file of one node.

    Args:
        path: the file; ``None`` stores nothing.
        is_read_only: reads the file and writes nothing.
        inherited: read while there is no such file, and never written.
        own_key: our public key. An inherited file that trusts it is of another node.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        is_read_only: bool = False,
        inherited: Path | None = None,
        own_key: bytes = b"",
    ) -> None:
        self.path = path
        self._inherited = inherited
        self._own_key = own_key
        self._is_read_only = is_read_only
        #: Members of other programs, preserved.
        self._others: Message = {}
        self._lock: int | None = None

    def lock(self) -> None:
        """Locks the file for this process, until it ends or :meth:`unlock`.

        Raises:
            AlreadyExists: another daemon uses the file.
            InvalidArgument: the directory cannot be used.
        """
        if self.path is None or self._is_read_only:
            return
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.unlock()
            raise AlreadyExists(
                f"another daemon keeps its trust in {self.path}",
                hint="give each daemon an identity of its own",
            ) from error
        except OSError as error:
            raise InvalidArgument(f"cannot lock {lock}: {error.strerror}") from error

    def unlock(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> Rows:
        """Loads the rows; none if there is no file.

        Raises:
            InvalidArgument: it cannot be read or parsed. It is left unchanged.
        """
        if self.path is None:
            return Rows.of()
        if self._inherited is not None and not self.path.exists():
            rows = self._load(self._inherited)
            if any(row.public_key == self._own_key for row in rows.trusted.values()):
                self._others = {}
                return Rows.of()
            return rows
        return self._load(self.path)

    def _load(self, path: Path) -> Rows:
        try:
            whole = msgspec.json.decode(_files.read_regular(path, MAX_FILE))
            if not isinstance(whole, dict):
                raise ValueError("it is no JSON object")
            rows = _rows(whole)
        except FileNotFoundError:
            return Rows.of()
        except OSError as error:
            raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise InvalidArgument(
                f"{path} holds no trust records: {error}",
                hint="restore the file from a backup, or move it away to trust nobody",
            ) from error
        self._others = {name: value for name, value in whole.items() if name not in _TABLES}
        return rows

    def save(self, rows: Rows) -> None:
        """Replaces the file; returns when it is durable.

        Raises:
            OSError: it could not be written; the previous file is unchanged.
        """
        if self.path is None or self._is_read_only:
            return
        text = msgspec.json.format(msgspec.json.encode(_whole(rows) | self._others), indent=2)
        _files.replace(self.path, [text])


def _whole(rows: Rows) -> Message:
    trusted = [
        {
            "node_id": row.node_id,
            "public_key": values.encode_base64(row.public_key),
            "approved_at": _date(row.approved_at),
            "mutual": row.mutual,
        }
        | ({"network": row.network} if row.network else {})
        for row in rows.trusted.values()
    ]
    pending = [
        {
            "node_id": row.node_id,
            "public_key": values.encode_base64(row.public_key),
            "justification": row.justification,
            "received_at": _date(row.received_at),
            "source": row.node_id,
        }
        for row in rows.pending.values()
    ]
    revoked = [
        {"node_id": row.node_id, "until": _date(row.until), "at": _date(row.at)}
        for row in rows.revoked.values()
    ]
    outgoing = [
        {"node_id": row.node_id, "sent_at": _date(row.sent_at)} for row in rows.outgoing.values()
    ]
    optional = {"pending": pending, "revoked": revoked, "outgoing": outgoing}
    return {"trusted": trusted} | {name: table for name, table in optional.items() if table}


def _rows(whole: Message) -> Rows:
    return Rows.of(
        _table(whole, "trusted", _trusted),
        _table(whole, "pending", _pending),
        _table(whole, "outgoing", lambda n, row: Outgoing(n, _time(row, "sent_at"))),
        _table(whole, "revoked", _revoked),
    )


def _table(whole: Message, name: str, read: Callable[[int, Message], _Row]) -> list[_Row]:
    table = whole.get(name)
    if table is None:
        return []
    if not isinstance(table, list):
        raise ValueError(f"{name!r} is no list")
    found = []
    for row in table:
        node_id = values.number(row, "node_id") if isinstance(row, dict) else 0
        if not node_id:
            raise ValueError(f"a row of {name!r} names no node")
        found.append(read(node_id, row))
    return found


def _trusted(node_id: int, row: Message) -> Trusted:
    return Trusted(
        node_id,
        _key(row),
        _time(row, "approved_at"),
        values.flag(row, "mutual"),
        values.number(row, "network", 16),
    )


def _pending(node_id: int, row: Message) -> Pending:
    text = cut(values.text(row, "justification"), MAX_JUSTIFICATION)
    return Pending(node_id, _key(row), text, _time(row, "received_at"))


def _revoked(node_id: int, row: Message) -> Revoked:
    until = _time(row, "until")
    return Revoked(node_id, _time(row, "at") if "at" in row else until - COOLDOWN, until)


def _key(row: Message) -> bytes:
    text = values.text(row, "public_key")
    return values.decode_base64(text, values.KEY_LEN) if text else b""


def _date(seconds: int) -> str:
    # strftime writes the year 1, which is the zero time of existing daemons, with one digit.
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _time(row: Message, name: str) -> int:
    """RFC 3339, with a fraction of any length and in either case."""
    return int(datetime.fromisoformat(values.text(row, name).upper()).timestamp())
