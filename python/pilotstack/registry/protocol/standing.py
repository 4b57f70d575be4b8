"""What registries say of themselves in every reply: their cluster and their term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.errors import Code

if TYPE_CHECKING:
    from pilotstack.registry.protocol.framing import Message

#: The members that say so.
STANDING: Final = frozenset({"cluster", "term", "term_proof", "replaced"})
#: Terms of other registries must be below; at one promotion per second, no network gets there.
MAX_TERM: Final = 1 << 31


def is_standby(reply: Message) -> bool:
    """Whether a standby gave this reply instead of the primary."""
    if reply.get("standby") is True or reply.get("code") == Code.STANDBY:
        return True
    return values.text(reply, "error").startswith("standby mode:")
