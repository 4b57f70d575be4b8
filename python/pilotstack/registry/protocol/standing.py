"""What registries say of themselves in every reply: which cluster they are of, and in which
term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.protocol import values

if TYPE_CHECKING:
    from pilotstack.registry.protocol.framing import Message

#: What registries say of themselves in every reply.
STANDING = frozenset({"cluster", "term", "term_proof", "replaced"})
#: Terms that others may name are below; one promotion a second takes longer than any network lives.
MAX_TERM: Final = 1 << 31
#: The request of a registry that became the primary to the one that it followed before.
ANNOUNCE: Final = "announce_term"


def is_standby(reply: Message) -> bool:
    """Whether a standby gave this reply in place of the primary."""
    if reply.get("standby") is True or reply.get("code") == "standby":
        return True
    return values.text(reply, "error").startswith("standby mode:")
