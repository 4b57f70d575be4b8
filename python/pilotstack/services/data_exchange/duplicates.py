"""Which tagged messages were stored already. No IO and no clock.

The key covers everything that a sender chose, so that a sender can only suppress messages of its
own that are the same."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pilotstack.services.data_exchange.frames import Tag

#: How long a message is remembered, seconds, and how many, in all and of one sender.
WINDOW: Final = 600.0
MAX_KEYS: Final = 8192
MAX_PER_SENDER: Final = 1024


def key_of(sender: int, kind: int, tag: Tag, name: str, digest: bytes) -> bytes:
    """What makes a message the same as another; ``digest`` is of its payload."""
    hashed = hashlib.sha256()
    texts = (str(sender), str(kind), tag.message_id, tag.reply_to, name)
    for part in (*(text.encode() for text in texts), digest):
        hashed.update(len(part).to_bytes(4) + part)
    return hashed.digest()


class Duplicates:
    """Keys of messages that were stored lately."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def is_known(self, key: bytes, now: float) -> bool:
        """Whether a message was stored in the last :data:`WINDOW`."""
        self._expire(now)
        return key in self._seen

    def note(self, key: bytes, sender: int, now: float) -> None:
        """Remembers that a message is stored."""
        if key in self._seen:
            return
        if self._counts.get(sender, 0) >= MAX_PER_SENDER:
            self._drop(next(k for k, (_, owner) in self._seen.items() if owner == sender))
        elif len(self._seen) >= MAX_KEYS:
            self._drop(next(iter(self._seen)))
        self._seen[key] = (now, sender)
        self._counts[sender] = self._counts.get(sender, 0) + 1

    def _expire(self, now: float) -> None:
        while self._seen:
            key, (noted, _) = next(iter(self._seen.items()))
            if now - noted <= WINDOW:
                return
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        _, sender = self._seen.pop(key)
        self._counts[sender] -= 1
        if not self._counts[sender]:
            del self._counts[sender]
