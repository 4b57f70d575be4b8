"""Data exchange (port 1001): texts, bytes, JSON, files and folders between nodes, acknowledged.

The protocol is in ``docs/reference/protocol/services/data-exchange.md``. Names are imported when
they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilotstack.services.data_exchange.answers import Answer, NotStored, SentFile, SentFolder
    from pilotstack.services.data_exchange.client import Exchange, connect, new_tag
    from pilotstack.services.data_exchange.frames import Ack, Frame, FrameType, Tag
    from pilotstack.services.data_exchange.inbox import InboxLimits
    from pilotstack.services.data_exchange.quota import Limits
    from pilotstack.services.data_exchange.service import DataExchange, serve

__all__ = [
    "Ack",
    "Answer",
    "DataExchange",
    "Exchange",
    "Frame",
    "FrameType",
    "InboxLimits",
    "Limits",
    "NotStored",
    "SentFile",
    "SentFolder",
    "Tag",
    "connect",
    "new_tag",
    "serve",
]

_HOMES = {
    "answers": ("Answer", "NotStored", "SentFile", "SentFolder"),
    "client": ("Exchange", "connect", "new_tag"),
    "frames": ("Ack", "Frame", "FrameType", "Tag"),
    "inbox": ("InboxLimits",),
    "quota": ("Limits",),
    "service": ("DataExchange", "serve"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
