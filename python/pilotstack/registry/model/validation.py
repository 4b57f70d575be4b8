"""Checks rows of another registry for ranges, lengths and consistency. Types are checked where rows
are decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack.registry.model.rows import Network, Node
from pilotstack.registry.protocol.values import KEY_LEN

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Key, Row
    from pilotstack.registry.model.tables import Tables

#: The end of the year 9999, the last of RFC 3339.
_LAST_SECOND: Final = 253_402_300_799
_LARGEST: Final = (1 << 53) - 1
_TEXT: Final = 1 << 20
_LIST: Final = 1 << 16
_TIMES: Final = frozenset(
    {"registered", "gone_at", "created", "timestamp", "rotated", "expires", "at"}
)
_PAIRS: Final = frozenset({"members", "claims", "requests", "responses", "invites"})
#: Tables in which the first, or the second, part of the key is a network.
_NETWORK_FIRST: Final = frozenset({"networks", "members", "retired"})
_NETWORK_SECOND: Final = frozenset({"invites"})


def check_key(table: str, key: Key) -> None:
    """Checks that a key fits its table.

    Raises:
        ValueError: it does not.
    """
    parts = key if isinstance(key, tuple) else (key,)
    wanted: tuple[type, ...] = (int,)
    if table == "rotations":
        wanted = (int, str)
    elif table in _PAIRS:
        wanted = (int, int)
    if tuple(map(type, parts)) != wanted:
        raise ValueError(f"no key of {table}: {key!r:.100}")
    for place, part in enumerate(parts):
        networks = _NETWORK_SECOND if place else _NETWORK_FIRST
        limit = 1 << 16 if table in networks else 1 << 32
        if isinstance(part, int) and not 0 < part < limit:
            raise ValueError(f"no key of {table}: {key!r:.100}")
        if isinstance(part, str) and not 0 < len(part) <= KEY_LEN * 2:
            raise ValueError(f"no key of {table}: {key!r:.100}")


def check_row(table: str, key: Key, row: Row | None) -> None:
    """Checks that a row fits its table and its key.

    Raises:
        ValueError: it does not.
    """
    check_key(table, key)
    if row is None:
        return
    for name in row.__struct_fields__:
        _check_value(table, name, getattr(row, name))
    if isinstance(row, Node) and (row.node_id != key or len(row.public_key) != KEY_LEN):
        raise ValueError(f"no node: {row!r:.200}")
    if isinstance(row, Network):
        if row.network_id != key or not row.name:
            raise ValueError(f"no network: {row!r:.200}")
        for text in filter(None, (row.rules, row.expr_policy)):
            try:
                msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError) as error:
                raise ValueError(f"rules of network {key} that are no JSON") from error


def _check_value(table: str, name: str, value: object) -> None:
    match value:
        case bool():
            return
        case int():
            is_right = abs(value) <= _LARGEST if name not in _TIMES else 0 <= value <= _LAST_SECOND
        case str() | bytes():
            is_right = len(value) <= _TEXT
        case tuple():
            is_right = len(value) <= _LIST
            for item in value:
                _check_value(table, "", item)
        case _:
            is_right = True
    if not is_right:
        raise ValueError(f"no {name} of {table}: {value!r:.100}")


def check_all(tables: Tables) -> None:
    """Checks all rows.

    Raises:
        ValueError: one does not fit its table or key.
    """
    for name, table in tables.tables.items():
        for key, row in table.pairs():
            check_row(name, key, row)
