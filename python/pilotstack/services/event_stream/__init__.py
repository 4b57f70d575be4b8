"""Event stream (port 1002): publish and subscribe by topic.

The protocol is in ``docs/reference/protocol/services/event-stream.md``. Names are imported when
they are first used::

    from pilotstack.services import event_stream as events
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilotstack.services.event_stream.broker import Limits
    from pilotstack.services.event_stream.client import (
        Publisher,
        Subscription,
        publish,
        publish_to,
        subscribe,
    )
    from pilotstack.services.event_stream.codec import Event
    from pilotstack.services.event_stream.control import Lost
    from pilotstack.services.event_stream.service import EventStream

__all__ = [
    "Event",
    "EventStream",
    "Limits",
    "Lost",
    "Publisher",
    "Subscription",
    "publish",
    "publish_to",
    "subscribe",
]

_HOMES = {
    "broker": ("Limits",),
    "client": ("Publisher", "Subscription", "publish", "publish_to", "subscribe"),
    "codec": ("Event",),
    "control": ("Lost",),
    "service": ("EventStream",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
