"""The lenient half of the codec: values of any JSON types as members of a struct.

Existing clients are loose with types, and existing servers forgiving: a member of the wrong type,
or out of range, counts as absent; fractions are cut off, and so are texts and lists at their limit.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Convert = Callable[[object], object]

S = TypeVar("S", bound=msgspec.Struct)


def convert(members: Mapping[str, object], kind: type[S]) -> S:
    """A struct of what is usable in an object."""
    found: dict[str, object] = {}
    for name, key, is_required, to_value in _plan(kind):
        if key in members:
            found[name] = to_value(members[key])
        elif is_required:
            found[name] = to_value(None)
    return kind(**found)


@cache
def _plan(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, bool, Convert], ...]:
    """Name, wire name, whether it has no default, and converter of each member."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return tuple(
        (field.name, field.encode_name, field.required, _converter(field.type))
        for field in info.fields
    )


def _converter(info: inspect.Type) -> Convert:
    match info:
        case inspect.Metadata():
            return _converter(info.type)
        case inspect.UnionType():
            return _converter(info.types[0])
        case inspect.StrType():
            return lambda value: value[: info.max_length] if isinstance(value, str) else ""
        case inspect.BoolType():
            return lambda value: value is True
        case inspect.IntType():
            return lambda value: _integer(value, info.ge or 0, info.le)
        case inspect.FloatType():
            return _number
        case inspect.VarTupleType():
            return _list_converter(info)
        case inspect.DictType():
            return _dict_converter(info)
        case inspect.StructType():
            kind: type[msgspec.Struct] = info.cls
            return lambda value: convert(value if isinstance(value, dict) else {}, kind)
        case inspect.RawType():
            return lambda value: msgspec.Raw(msgspec.json.encode(value))
        case _:
            return lambda value: value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value)


def _integer(value: object, least: int, most: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if value >= least and (most is None or value < most + 1) else 0


def _list_converter(info: inspect.VarTupleType) -> Convert:
    """Items of the wrong type are left out of lists."""
    to_item, is_usable, limit = (
        _converter(info.item_type),
        _check_of(info.item_type),
        info.max_length,
    )

    def to_list(value: object) -> tuple[object, ...]:
        items = value if isinstance(value, list) else []
        return tuple([to_item(item) for item in items if is_usable(item)][:limit])

    return to_list


def _check_of(info: inspect.Type) -> Callable[[object], bool]:
    match info:
        case inspect.StrType():
            return lambda item: isinstance(item, str)
        case inspect.IntType():
            return lambda item: type(item) is int and _integer(item, info.ge or 0, info.le) == item
        case inspect.StructType():
            return lambda item: isinstance(item, dict)
        case _:
            return lambda item: True


def _dict_converter(info: inspect.DictType) -> Convert:
    to_value = _converter(info.value_type)

    def to_dict(value: object) -> dict[object, object]:
        items = value.items() if isinstance(value, dict) else ()
        return {key: to_value(item) for key, item in items}

    return to_dict
