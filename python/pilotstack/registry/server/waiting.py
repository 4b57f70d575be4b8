"""Long polls: a daemon's poll is held here instead of being repeated every few seconds."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Seconds for which a reply is held at most; well below the timeouts of clients and middleboxes.
MAX_WAIT: Final = 55
#: Polls of one node that are held at once; with one more, the oldest is answered.
MAX_HELD: Final = 8
#: Nodes whose missed wake-ups are remembered.
MAX_MISSED: Final = 1 << 16


class Waiters:
    """Nodes that wait, and nodes that missed a wake-up."""

    def __init__(self) -> None:
        #: Polls of each node, the oldest first.
        self._events: dict[int, list[anyio.Event]] = {}
        self._missed: OrderedDict[int, None] = OrderedDict()
        #: Polls that are held now.
        self.held = 0

    def wake(self, node_ids: Iterable[int]) -> list[int]:
        """Wakes nodes; returns those that did not wait, whose next wait ends at once."""
        absent = []
        for node_id in dict.fromkeys(node_ids):
            events = self._events.pop(node_id, ())
            for event in events:
                event.set()
            if events:
                continue
            absent.append(node_id)
            self._missed[node_id] = None
            self._missed.move_to_end(node_id)
            if len(self._missed) > MAX_MISSED:
                self._missed.popitem(last=False)
        return absent

    def forget(self, node_id: int) -> bool:
        """Whether the node missed a wake-up; forgets it."""
        return self._missed.pop(node_id, 0) is None

    async def wait(self, node_id: int, seconds: float) -> None:
        """Returns when the node is woken or the time has passed."""
        event = anyio.Event()
        events = self._events.setdefault(node_id, [])
        events.append(event)
        if len(events) > MAX_HELD:
            # The node has probably given it up.
            events.pop(0).set()
        self.held += 1
        try:
            with anyio.move_on_after(seconds):
                await event.wait()
        finally:
            self.held -= 1
            if event in events:
                events.remove(event)
            if not events and self._events.get(node_id) is events:
                del self._events[node_id]
