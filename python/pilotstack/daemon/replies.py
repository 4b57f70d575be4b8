"""Replies of a registry as answers to drivers: what is passed on is what an answer has, and of the
right type."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from pilotstack.errors import ConnectionFailed
from pilotstack.ipc.layout import read_address

if TYPE_CHECKING:
    from collections.abc import Mapping

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


def answer_of(kind: type[_Answer], reply: Mapping[str, object]) -> _Answer:
    """The answer to a driver for a reply of the registry; members that it does not have are left
    out.

    Raises:
        ConnectionFailed: the reply lacks a member, or has one of another type.
    """
    try:
        return msgspec.convert(reply, kind, dec_hook=read_address)
    except msgspec.ValidationError as error:
        raise ConnectionFailed(
            f"registry: a malformed reply: {error}",
            hint="check that --registry names a registry, and its version",
        ) from error
