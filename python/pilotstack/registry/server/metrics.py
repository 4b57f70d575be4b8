"""What a registry counts, in plain integers. Names come from a fixed set, whatever clients send."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from pilotstack._figures import Durations
from pilotstack.registry.protocol.codec import REQUESTS
from pilotstack.registry.protocol.requests.base import Refusal

if TYPE_CHECKING:
    from pilotstack.registry.protocol.requests.base import Reply, Request

_UNKNOWN: Final = "unknown"
_NAMES: Final = {kind: name for name, kind in REQUESTS.items()}
#: Names of requests.
KINDS: Final = (*sorted(REQUESTS), _UNKNOWN)
#: Why connections are cut.
REASONS: Final = (
    *("protocol", "timeout", "seats", "evicted", "flood", "memory", "tls", "failure"),
    *("gone", "store"),
)
_OK: Final = "ok"


class Tally:
    """Requests of one type."""

    __slots__ = ("durations", "errors")

    def __init__(self) -> None:
        self.errors = 0
        self.durations = Durations()


class Metrics:
    """What one server has done."""

    def __init__(self) -> None:
        #: By the monotonic clock.
        self.started = time.monotonic()
        self.total = 0
        #: Requests per second, over about a minute.
        self.rate = 0.0
        self._total_before = 0
        self.tallies = {name: Tally() for name in KINDS}
        #: By name and result: ``ok``, or the code of the refusal.
        self.results: Counter[tuple[str, str]] = Counter()
        #: Connections that were cut, by reason.
        self.dropped_connections = Counter(dict.fromkeys(REASONS, 0))
        #: Requests over a limit, and those with a wrong token or secret.
        self.throttled_requests = 0
        self.wrong_secrets = 0

    def succeeded(self, name: str) -> int:
        """Requests of a type that were not refused."""
        tally = self.tallies[name]
        return tally.durations.total - tally.errors

    def answered(self, kind: type[Request[Reply]], reply: Reply, *, seconds: float) -> None:
        """Counts a request."""
        name = _NAMES.get(kind, _UNKNOWN)
        tally = self.tallies[name]
        self.total += 1
        tally.durations.add(seconds)
        result = _OK
        if isinstance(reply, Refusal):
            tally.errors += 1
            result = str(reply.code)
        self.results[name, result] += 1

    def throttled(self) -> None:
        """Counts a request over a limit."""
        self.throttled_requests += 1

    def guessed(self) -> None:
        """Counts a request with a wrong secret."""
        self.wrong_secrets += 1

    def dropped(self, reason: str) -> None:
        """Counts a connection that was cut."""
        self.dropped_connections[reason] += 1

    def tick(self, seconds: float) -> None:
        """Updates the rate; ``seconds`` have passed since the last call."""
        current = (self.total - self._total_before) / seconds
        self._total_before = self.total
        weight = min(1.0, seconds / 60.0)
        self.rate += weight * (current - self.rate)
