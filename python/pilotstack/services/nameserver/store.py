"""The file of a nameserver: JSON in the form of existing servers
(docs/reference/protocol/services/names.md#the-file)."""

from __future__ import annotations

import datetime
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pilotstack import _events, _files
from pilotstack.errors import InvalidArgument
from pilotstack.services.nameserver.codec import Refused
from pilotstack.services.nameserver.records import (
    NameRecord,
    NetworkRecord,
    Record,
    ServiceRecord,
    is_name,
    normal,
)
from pilotstack.types import Address

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.services.nameserver.zone import Entry, Zone

log = _events.get_logger(__name__)

#: Bytes of a file at most.
MAX_FILE: Final = 16 << 20
_LISTS: Final = {NameRecord: "a_records", NetworkRecord: "n_records", ServiceRecord: "s_records"}


def encode(zone: Zone) -> bytes:
    """The content of the file."""
    content: dict[str, list[dict[str, Any]]] = {name: [] for name in _LISTS.values()}
    for entry in zone.entries:
        content[_LISTS[type(entry.record)]].append(_row(entry))
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _row(entry: Entry) -> dict[str, Any]:
    record = entry.record
    row: dict[str, Any] = {"name": record.name}
    if isinstance(record, NameRecord | ServiceRecord):
        row["address"] = str(record.address)
    if isinstance(record, NetworkRecord | ServiceRecord):
        row["network_id"] = record.network
    if isinstance(record, ServiceRecord):
        row["port"] = record.port
    moment = datetime.datetime.fromtimestamp(entry.registered, datetime.UTC)
    # Others ignore members that they do not know.
    return row | {"created_at": moment.isoformat().replace("+00:00", "Z"), "owner": entry.owner}


def decode(text: bytes, zone: Zone, now: float) -> int:
    """Puts the records of a file into a zone. Returns how many; malformed ones are left out.

    Raises:
        ValueError: the text is no such file.
    """
    try:
        content = msgspec.json.decode(text, type=dict[str, list[dict[str, Any]] | None])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    found = 0
    for kind, name in _LISTS.items():
        for row in content.get(name) or ():
            with suppress(Refused, ValueError, KeyError, TypeError, OverflowError):
                record, owner = _read(kind, row)
                zone.register(record, owner, _registered(row, now))
                found += 1
    zone.expire(now)
    return found


def _read(kind: type, row: dict[str, Any]) -> tuple[Record, int]:
    name = normal(row["name"])
    if not is_name(name):
        raise ValueError(name)
    if kind is NetworkRecord:
        # Files of others do not say who registered it.
        return NetworkRecord(name, _u16(row["network_id"])), int(row.get("owner", 0))
    address = Address.parse(row["address"])
    if kind is NameRecord:
        return NameRecord(name, address), address.node
    port, network = _u16(row["port"]), _u16(row["network_id"])
    return ServiceRecord(name, address, network, port), address.node


def _u16(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= 0xFFFF:
        raise ValueError(value)
    return value


def _registered(row: dict[str, Any], now: float) -> float:
    """When the record was registered last: now, if the file does not say."""
    if "created_at" not in row:
        return now
    return min(now, datetime.datetime.fromisoformat(row["created_at"]).timestamp())


class Store:
    """Keeps a zone in a file.

    Args:
        path: the file; ``None`` keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, zone: Zone, now: float) -> None:
        """Reads the file, if there is one.

        Raises:
            InvalidArgument: it is something else, or cannot be read. It is unchanged.
        """
        if self._path is None:
            return
        try:
            decode(_files.read_regular(self._path, MAX_FILE), zone, now)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise InvalidArgument(
                f"{self._path} holds no names: {error}",
                hint="move the file away, or name another one",
            ) from error

    def save(self, content: bytes) -> None:
        """Replaces the file. A failure is logged: the records are still there."""
        if self._path is None:
            return
        try:
            _files.replace(self._path, [content])
        except OSError as error:
            log.error("names_not_stored", path=str(self._path), error=str(error))
