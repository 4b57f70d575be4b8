"""What signatures cover that are this project's own and carry a time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


#: How a refusal begins that ends with the registry's clock.
NOT_NOW: Final = "signature is not of now: the registry has "
#: Not covered: signatures, secrets, and what the connection adds of its own.
_UNCOVERED: Final = frozenset(
    {
        *("signature", "signature_at", "admin_token", "token", "network_admin_token"),
        *("cluster", "term", "term_proof"),
    }
)


def challenge_at(challenge: str, message: Mapping[str, Any], at: int) -> str:
    """What ``signature_at`` of a request signs."""
    covered = {name: value for name, value in message.items() if name not in _UNCOVERED}
    digest = hashlib.sha256(msgspec.json.encode(covered, order="sorted")).hexdigest()
    return f"{challenge}@{at}#{digest}"
